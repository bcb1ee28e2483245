//! Modules ready to run: each is compiled once, then kept on the disk and in memory.
//!
//! ```text
//! get ── loaded ──────────────────────────────────────────────> run
//!  └─ preparing ── on the disk ── load ──────────────────────────┤
//!                └ trusted: baseline tier ── load ───────────────┤   and then, in the background:
//!                └ others: optimized tier ── load ───────────────┘   optimized tier ── swapped in
//! ```
//!
//! There is at most one compilation of a module and tier at a time; whoever needs it waits for that one.
//! It goes on when they leave, because the module is wanted all the same.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::watch;
use wardian_proto::Digest;
use wardian_store::BlobStore;
use wasmtime::Engine;

use super::artifacts::{Artifacts, Key};
use super::compile::{Baseline, CompileSettings, Compiler, TrustedModules, Urgency};
use super::engines::{Engines, Tier, fingerprint};
use super::link::{self, Loaded};
use super::refusals::Refusals;
use crate::input_root::blocking;
use crate::{Failure, Limits};

/// Modules that are being compiled or wait for it, and again in the background. Those whose actions were
/// cancelled are among them.
const PREPARING_MAX: usize = 256;

/// A module in memory, and how it came there.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) loaded: Arc<Loaded>,
    pub(super) tier: Tier,
}

/// The outcome of a preparation, for everybody who waits for it.
type Preparation = Shared<BoxFuture<'static, Result<Ready, Failure>>>;

/// The modules of one worker. Dropping this ends every compilation.
pub(super) struct Modules {
    shared: Arc<Common>,
    stop: watch::Sender<bool>,
}

struct Common {
    engines: Engines,
    /// The fingerprint of each tier's engine. A tier without one cannot be had here.
    fingerprints: HashMap<Tier, String>,
    artifacts: Artifacts,
    compiler: Compiler,
    store: Arc<dyn BlobStore>,
    limits: Limits,
    baseline: Baseline,
    trusted: TrustedModules,
    state: Mutex<State>,
    stopped: watch::Receiver<bool>,
}

/// A module, and the tier that it must run at if any will not do.
type Wanted = (Digest, Option<Tier>);

#[derive(Default)]
struct State {
    loaded: HashMap<Wanted, (u64, Ready)>,
    clock: u64,
    preparing: HashMap<Wanted, Preparation>,
    /// Compilations of the optimized tier behind a baseline that runs, or for the worker's start.
    improving: HashMap<Digest, Preparation>,
    refusals: Refusals,
}

impl Modules {
    pub(super) fn open(
        folder: &Path,
        store: Arc<dyn BlobStore>,
        slots: usize,
        limits: &Limits,
        settings: CompileSettings,
    ) -> anyhow::Result<Self> {
        let engines = Engines::new(slots, limits).map_err(anyhow::Error::from)?;
        let fingerprints: HashMap<Tier, String> = Tier::ALL
            .into_iter()
            .filter_map(|tier| Some((tier, fingerprint(engines.roomy(tier)?))))
            .collect();
        let known: Vec<_> = fingerprints.clone().into_iter().collect();
        let artifacts = Artifacts::open(folder, settings.kept_bytes_max, &known)?;
        let trusted = TrustedModules::default();
        settings.trusted.iter().for_each(|module| trusted.add(*module));
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Common {
            engines,
            fingerprints,
            artifacts,
            baseline: settings.baseline,
            compiler: Compiler::new(settings),
            store,
            limits: limits.clone(),
            trusted,
            state: Mutex::default(),
            stopped,
        });
        Ok(Self { shared, stop })
    }

    /// The engines, for whoever keeps their clock.
    pub(super) fn engines(&self) -> Vec<Engine> {
        self.shared.engines.all()
    }

    /// The modules of registered toolchains.
    pub(super) fn trusted(&self) -> &TrustedModules {
        &self.shared.trusted
    }

    /// The tiers that an action may ask for here.
    pub(super) fn tiers(&self) -> Vec<Tier> {
        let mut tiers = Tier::ALL.to_vec();
        tiers.retain(|tier| match tier {
            Tier::Baseline => self.shared.has_baseline(),
            Tier::Optimized | Tier::Metered => true,
        });
        tiers
    }

    /// The tiers that an action may ask for with this module, metered ones first.
    pub(super) fn tiers_of(&self, module: &Digest) -> Vec<Tier> {
        let mut tiers = vec![Tier::Metered];
        tiers.extend(self.shared.may_be_baseline(module).then_some(Tier::Baseline));
        tiers.push(Tier::Optimized);
        tiers
    }

    /// Returns a module ready to run, at a certain tier if need be, compiling it when this worker never saw it.
    pub(super) async fn get(&self, module: &Digest, tier: Option<Tier>) -> Result<Ready, Failure> {
        if let Some(ready) = self.shared.loaded(module, tier) {
            return Ok(ready);
        }
        self.shared.prepare(*module, tier)?.await
    }

    /// Whether machine code of the module is in memory or on the disk, so that it is a module for certain.
    pub(super) fn knows(&self, module: &Digest, tier: Option<Tier>) -> bool {
        self.shared.knows(module, tier)
    }

    /// Asks [`knows`](Self::knows) of any tier for somebody else.
    pub(super) fn finder(&self) -> Box<dyn Fn(&Digest) -> bool + Send + Sync> {
        let shared = Arc::clone(&self.shared);
        Box::new(move |module| shared.knows(module, None))
    }

    /// What a module that is not [known](Self::knows) waits for.
    pub(super) fn awaits(&self, module: &Digest, tier: Option<Tier>) -> Option<String> {
        if self.knows(module, tier) {
            return None;
        }
        let others = {
            let state = self.shared.lock();
            let preparing = state.preparing.keys().filter(|(other, _)| other != module).count();
            let improving = state.improving.keys().filter(|other| *other != module).count();
            preparing + improving
        };
        Some(format!(
            "waiting until module {module} is compiled ({others} others are being compiled or wait)"
        ))
    }

    /// Compiles modules in the background, those of them that the store has.
    pub(super) fn warm(&self, modules: &[Digest]) {
        for module in modules {
            let (shared, module) = (Arc::clone(&self.shared), *module);
            tokio::spawn(async move {
                if let Err(failure) = shared.improve(module).await {
                    tracing::warn!(%module, %failure, "not compiled at the start");
                }
            });
        }
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        // Nobody may be left to hear it.
        let _ = self.stop.send(true);
    }
}

impl Common {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock panics")
    }

    fn knows(&self, module: &Digest, tier: Option<Tier>) -> bool {
        self.loaded(module, tier).is_some() || !self.on_disk(module, tier).is_empty()
    }

    fn loaded(&self, module: &Digest, tier: Option<Tier>) -> Option<Ready> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let (used, ready) = state.loaded.get_mut(&(*module, tier))?;
        *used = now;
        Some(ready.clone())
    }

    /// Puts a module into memory, in place of the one used longest ago.
    fn keep_loaded(&self, module: Digest, tier: Option<Tier>, ready: &Ready) {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        if ready.tier == Tier::Baseline && state.loaded.contains_key(&(module, tier)) {
            // The optimized tier was quicker.
            return;
        }
        state.loaded.insert((module, tier), (now, ready.clone()));
        if state.loaded.len() > self.limits.wasm_modules_loaded_max {
            let oldest = state.loaded.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            state.loaded.remove(&oldest.expect("there is more than one"));
        }
    }

    fn key(&self, module: &Digest, tier: Tier) -> Option<Key> {
        Some(Key::new(module, tier, self.fingerprints.get(&tier)?))
    }

    fn has_baseline(&self) -> bool {
        self.baseline != Baseline::Off && self.engines.roomy(Tier::Baseline).is_some()
    }

    /// Whether a module may run at the baseline tier.
    fn may_be_baseline(&self, module: &Digest) -> bool {
        self.has_baseline() && (self.baseline == Baseline::All || self.trusted.has(module))
    }

    /// The tiers that may serve, the better ones first.
    fn tiers(&self, module: &Digest, wanted: Option<Tier>) -> Vec<Tier> {
        let mut tiers = match wanted {
            None => vec![Tier::Optimized, Tier::Baseline],
            Some(tier) => vec![tier],
        };
        tiers.retain(|tier| *tier != Tier::Baseline || self.may_be_baseline(module));
        tiers
    }

    /// The tiers that may serve and are on the disk, the better ones first.
    fn on_disk(&self, module: &Digest, tier: Option<Tier>) -> Vec<Tier> {
        let mut tiers = self.tiers(module, tier);
        tiers.retain(|tier| self.key(module, *tier).is_some_and(|key| self.artifacts.has(&key)));
        tiers
    }

    /// Joins the preparation of a module, or begins it.
    fn prepare(self: &Arc<Self>, module: Digest, tier: Option<Tier>) -> Result<Preparation, Failure> {
        let mut state = self.lock();
        if let Some(preparation) = state.preparing.get(&(module, tier)) {
            return Ok(preparation.clone());
        }
        if state.preparing.len() >= PREPARING_MAX {
            return Err(Failure::ResourceExhausted(format!(
                "{PREPARING_MAX} modules are being compiled or wait for it already"
            )));
        }
        let shared = Arc::clone(self);
        let work = async move {
            let ready = shared.first_ready(module, tier).await;
            if let Ok(ready) = &ready {
                shared.keep_loaded(module, tier, ready);
            }
            ready
        };
        let shared = Arc::clone(self);
        let done = move || drop(shared.lock().preparing.remove(&(module, tier)));
        let preparation = self.begin(work, done);
        state.preparing.insert((module, tier), preparation.clone());
        Ok(preparation)
    }

    /// Joins the compilation of the optimized tier in the background, or begins it.
    fn improve(self: &Arc<Self>, module: Digest) -> Preparation {
        let mut state = self.lock();
        if let Some(preparation) = state.improving.get(&module) {
            return preparation.clone();
        }
        let shared = Arc::clone(self);
        let work = async move {
            let ready = match shared.load(module, Tier::Optimized).await? {
                Some(ready) => ready,
                None => shared.compile(module, Tier::Optimized, Urgency::Background).await?,
            };
            shared.keep_loaded(module, None, &ready);
            // Nothing loads it any more.
            if let Some(key) = shared.key(&module, Tier::Baseline) {
                shared.artifacts.remove(&key);
            }
            Ok(ready)
        };
        let shared = Arc::clone(self);
        let done = move || drop(shared.lock().improving.remove(&module));
        let preparation = self.begin(work, done);
        state.improving.insert(module, preparation.clone());
        preparation
    }

    /// Starts work that goes on when nobody waits for it, until the worker ends.
    fn begin(
        &self,
        work: impl Future<Output = Result<Ready, Failure>> + Send + 'static,
        done: impl FnOnce() + Send + 'static,
    ) -> Preparation {
        let mut stopped = self.stopped.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                ready = work => ready,
                _ = stopped.wait_for(|stop| *stop) => Err(Failure::Cancelled),
            }
        });
        // Another task, so that a panic in the work is seen here and `done` comes all the same.
        let watched = tokio::spawn(async move {
            let ready = task.await;
            done();
            ready
                .unwrap_or_else(|panic| Err(Failure::Internal(format!("preparing a module failed: {panic}"))))
        });
        let outcome = async move {
            watched.await.unwrap_or_else(|_| Err(Failure::Internal("the worker is ending".into())))
        };
        outcome.boxed().shared()
    }

    /// Gets the first tier of a module that can be had, and sees to it that the best one follows.
    async fn first_ready(self: &Arc<Self>, module: Digest, wanted: Option<Tier>) -> Result<Ready, Failure> {
        let mut ready = None;
        for tier in self.on_disk(&module, wanted) {
            ready = self.load(module, tier).await?;
            if ready.is_some() {
                break;
            }
        }
        let ready = match ready {
            Some(ready) => ready,
            None => self.compile_first(module, wanted).await?,
        };
        if ready.tier == Tier::Baseline && wanted.is_none() {
            self.improve_behind(module);
        }
        Ok(ready)
    }

    fn improve_behind(self: &Arc<Self>, module: Digest) {
        if self.lock().improving.len() >= PREPARING_MAX {
            // It is tried again when the baseline is next loaded.
            return;
        }
        let improving = self.improve(module);
        tokio::spawn(async move {
            match improving.await {
                Ok(_) | Err(Failure::Cancelled) => {}
                Err(failure) => tracing::warn!(%module, %failure, "the module stays at its baseline tier"),
            }
        });
    }

    async fn compile_first(self: &Arc<Self>, module: Digest, wanted: Option<Tier>) -> Result<Ready, Failure> {
        let tiers = self.tiers(&module, wanted);
        if wanted.is_none() && tiers.contains(&Tier::Baseline) {
            match self.compile(module, Tier::Baseline, Urgency::Foreground).await {
                Ok(ready) => return Ok(ready),
                Err(missing @ Failure::MissingBlobs(_)) => return Err(missing),
                // Winch lacks exceptions, tail calls, relaxed SIMD and more; Cranelift's word counts.
                Err(refused) => tracing::info!(%module, %refused, "no baseline tier"),
            }
        }
        let Some(best) = tiers.first() else {
            return Err(Failure::FailedPrecondition(format!(
                "module {module} is of no registered toolchain and does not run at the baseline tier \
                 (worker.compile.baseline)"
            )));
        };
        let improving = self.lock().improving.get(&module).cloned();
        match improving {
            Some(improving) if *best == Tier::Optimized => improving.await,
            _ => self.compile(module, *best, Urgency::Foreground).await,
        }
    }

    /// Compiles a module and loads it.
    async fn compile(
        self: &Arc<Self>,
        module: Digest,
        tier: Tier,
        urgency: Urgency,
    ) -> Result<Ready, Failure> {
        if let Some(refused) = self.lock().refusals.get(Instant::now(), &module, tier) {
            return Err(refused);
        }
        // Before the module is in memory: those who wait should be light.
        let turn = self.compiler.turn(module.size(), urgency).await;
        let bytes = super::read_module(&*self.store, &module, &self.limits).await?;
        let key =
            self.key(&module, tier).ok_or_else(|| Failure::Internal(format!("there is no {tier} tier")))?;
        let file = self.artifacts.begin().map_err(Failure::io("create file of machine code"))?;
        let engine = self.fingerprints[&tier].clone();
        let started = Instant::now();
        let compiled = self.compiler.compile(turn, &module, &bytes, tier, engine, &file).await;
        if let Err(refused) = &compiled {
            self.lock().refusals.add(Instant::now(), &module, tier, refused);
        }
        compiled?;
        drop(bytes);
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(%module, %tier, seconds, "compiled");
        let shared = Arc::clone(self);
        blocking(move || shared.artifacts.keep(&key, file).map_err(Failure::io("keep machine code"))).await?;
        let loaded = self.load(module, tier).await?;
        loaded.ok_or_else(|| Failure::Internal(format!("compiled module {module} could not be loaded")))
    }

    /// Loads machine code from the disk, if there is any that is usable.
    async fn load(self: &Arc<Self>, module: Digest, tier: Tier) -> Result<Option<Ready>, Failure> {
        let Some(key) = self.key(&module, tier) else { return Ok(None) };
        let shared = Arc::clone(self);
        blocking(move || {
            let Some(path) = shared.artifacts.find(&key) else { return Ok(None) };
            let loaded = link::load(&shared.engines, tier, &module, &path)?;
            if loaded.is_none() {
                shared.artifacts.remove(&key);
            }
            Ok(loaded.map(|loaded| Ready { loaded: Arc::new(loaded), tier }))
        })
        .await
    }
}

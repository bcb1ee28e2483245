//! One line of the table: the same work for each server, turn about, several times over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tonic::transport::Channel;

use crate::peer::Peer;
use crate::table::{Cell, Results};

/// The servers, and what was measured about them so far.
pub(crate) struct Bench {
    pub(crate) peers: Vec<Peer>,
    pub(crate) results: Results,
    rounds: u32,
    only: String,
}

/// What a line measures.
pub(crate) struct Line {
    /// Its name in the table.
    pub(crate) name: String,
    /// What is counted, such as `blobs`.
    pub(crate) unit: &'static str,
    /// Connections that call at once, each one call after another.
    pub(crate) connections: usize,
    /// How many times the rate of the other server ours should be.
    pub(crate) aim: f64,
}

/// What is done for a line in one round.
pub(crate) struct Work<T> {
    /// The calls, in the order in which they begin.
    pub(crate) calls: Vec<T>,
    /// What they amount to, in the line's unit.
    pub(crate) amount: f64,
}

impl Bench {
    pub(crate) fn new(peers: Vec<Peer>, rounds: u32, only: String) -> Self {
        let results = Results::new(peers.iter().map(|peer| peer.name).collect());
        Self { peers, results, rounds, only }
    }

    /// Measures a line. `work` is asked once for each round; every server is given the same.
    pub(crate) async fn line<T, F, Fut>(
        &mut self,
        line: Line,
        mut work: impl FnMut() -> Work<T>,
        call: F,
    ) -> anyhow::Result<()>
    where
        T: Clone + Send + 'static,
        F: Fn(Channel, T) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        eprintln!("{} ..", line.name);
        let mut channels = Vec::new();
        for peer in &self.peers {
            channels.push(peer.connect(line.connections).await?);
        }
        let mut samples = vec![Vec::new(); self.peers.len()];
        let measured = line.name.contains(&self.only);
        for _ in 0..if measured { self.rounds } else { 1 } {
            let Work { calls, amount } = work();
            for (place, peer) in self.peers.iter().enumerate() {
                let processor_time = peer.process().processor_time()?;
                let took = drive(&channels[place], calls.clone(), call.clone()).await?;
                let processor_time = peer.process().processor_time()? - processor_time;
                samples[place].push(Sample { took, processor_time, amount });
            }
        }
        if measured {
            self.results.add_line(&line, samples.iter().map(|samples| Cell::of(samples)).collect());
        }
        Ok(())
    }

    /// Adds what each server holds in memory now; ours should stay below `aim_mib`.
    pub(crate) fn memory(&mut self, name: &str, aim_mib: u64) -> anyhow::Result<()> {
        let mut cells = Vec::new();
        for peer in &self.peers {
            cells.push(peer.process().memory()?);
        }
        self.results.add_memory(name, &cells, aim_mib);
        Ok(())
    }
}

/// One round on one server.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) took: Duration,
    /// What the server used of the processors meanwhile.
    pub(crate) processor_time: Duration,
    pub(crate) amount: f64,
}

/// Makes the calls, one at a time on each connection, and says how long all of them took.
async fn drive<T, F, Fut>(channels: &[Channel], calls: Vec<T>, call: F) -> anyhow::Result<Duration>
where
    T: Send + 'static,
    F: Fn(Channel, T) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let calls = Arc::new(Mutex::new(calls.into_iter()));
    let started = Instant::now();
    let connections = channels.iter().map(|channel| {
        let (channel, calls, call) = (channel.clone(), Arc::clone(&calls), call.clone());
        tokio::spawn(async move {
            let next = || calls.lock().unwrap_or_else(PoisonError::into_inner).next();
            while let Some(work) = next() {
                call(channel.clone(), work).await?;
            }
            anyhow::Ok(())
        })
    });
    try_join_all(connections).await?.into_iter().collect::<anyhow::Result<()>>()?;
    Ok(started.elapsed())
}

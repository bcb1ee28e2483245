//! Every requirement, in our own words, with what we chose where the API leaves a gap.

mod asset_log;
mod byte_stream;
mod capabilities;
mod cas;
mod digest;
mod execution;
mod output;
mod worker;

/// How strongly the API says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// MUST or MUST NOT.
    Must,
    /// Stated as plain fact, which binds as much.
    Stated,
    /// SHOULD.
    Should,
    /// MAY.
    May,
    /// A duty of clients, on which a server may rely.
    Client,
    /// The API is silent; what we do is a choice.
    Gap,
    /// Not said anywhere, but done by clients or servers in the field.
    Field,
}

impl Level {
    /// The word on the page.
    pub fn word(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Stated => "stated",
            Self::Should => "should",
            Self::May => "may",
            Self::Client => "client",
            Self::Gap => "gap",
            Self::Field => "field",
        }
    }

    /// Whether a server that does otherwise breaks the API.
    pub fn binds(self) -> bool {
        matches!(self, Self::Must | Self::Stated)
    }
}

/// One requirement.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its id, such as `BS-45`.
    pub id: &'static str,
    /// How strongly the API says it.
    pub level: Level,
    /// What it says, in short.
    pub text: &'static str,
    /// What Wardian does where the API leaves a gap.
    pub choice: Option<&'static str>,
    /// Why there is no check.
    pub without: Option<&'static str>,
}

impl Row {
    const fn new(id: &'static str, level: Level, text: &'static str) -> Self {
        Self { id, level, text, choice: None, without: None }
    }

    /// Adds what we chose.
    const fn choice(self, choice: &'static str) -> Self {
        Self { choice: Some(choice), ..self }
    }

    /// Says why there is no check.
    const fn without(self, why: &'static str) -> Self {
        Self { without: Some(why), ..self }
    }

    /// Whether its check is still to be written.
    pub fn is_open(&self) -> bool {
        self.without == Some(LATER)
    }

    /// Whether there is a reason why there is no check.
    pub fn has_reason(&self) -> bool {
        self.without.is_some() && !self.is_open()
    }
}

const fn must(id: &'static str, text: &'static str) -> Row {
    Row::new(id, Level::Must, text)
}

const fn stated(id: &'static str, text: &'static str) -> Row {
    Row::new(id, Level::Stated, text)
}

const fn should(id: &'static str, text: &'static str) -> Row {
    Row::new(id, Level::Should, text)
}

const fn may(id: &'static str, text: &'static str) -> Row {
    Row::new(id, Level::May, text)
}

const fn client(id: &'static str, text: &'static str) -> Row {
    Row::new(id, Level::Client, text)
}

const fn gap(id: &'static str, text: &'static str) -> Row {
    Row::new(id, Level::Gap, text)
}

const fn field(id: &'static str, text: &'static str) -> Row {
    Row::new(id, Level::Field, text)
}

/// Nobody has written the check.
const LATER: &str = "not tested yet";

/// There is nothing that a server could do wrong.
const CLIENTS: &str = "a duty of clients";

/// No client can tell.
const UNSEEN: &str = "cannot be seen through the API";

/// The Remote Workers API.
const NO_BOTS: &str = "not offered: workers do not speak the Remote Workers API";

/// A part of the APIs.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// What its ids begin with.
    pub prefix: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// Its requirements.
    pub rows: &'static [Row],
}

/// All requirements.
pub fn areas() -> &'static [Area] {
    const fn area(prefix: &'static str, title: &'static str, rows: &'static [Row]) -> Area {
        Area { prefix, title, rows }
    }
    const AREAS: &[Area] = &[
        area("GEN", "All services", digest::GENERAL),
        area("DIG", "Digests and digest functions", digest::DIGESTS),
        area("CAS", "Look-ups and batches", cas::BATCHES),
        area("TREE", "GetTree", cas::TREES),
        area("BS", "ByteStream over the CAS", byte_stream::ROWS),
        area("CHK", "SplitBlob and SpliceBlob", cas::CHUNKS),
        area("AC", "ActionCache", capabilities::ACTION_CACHE),
        area("EXE", "Execution", execution::EXECUTION),
        area("ACT", "Action, Command and input tree", worker::ACTIONS),
        area("OUT", "Outputs", output::OUTPUTS),
        area("META", "ExecutedActionMetadata", output::METADATA),
        area("OPS", "Operations", execution::OPERATIONS),
        area("CAP", "Capabilities", capabilities::CAPABILITIES),
        area("PLT", "Platform properties", worker::PLATFORM),
        area("AST", "Remote Asset", asset_log::ASSETS),
        area("LOG", "LogStream", asset_log::LOGS),
        area("RW", "Remote Workers", worker::BOTS),
    ];
    AREAS
}

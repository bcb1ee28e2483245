//! What commands of other processes write, on its way to those who follow it.

use std::collections::{HashMap, HashSet};

use tonic::Status;
use wardian_proto::{InstanceName, LogName, wardian};

use crate::logs::{LogStreams, WorkerLog};

/// Streams that one worker may have open at once: two for each of the most slots, and as many of runs that just ended.
const OPEN_MAX: usize = 4 * super::offer::SLOTS_MAX as usize;

const LOST: &str = "this log is not complete: a part was lost with the connection to the worker";

/// The streams that a worker writes.
#[derive(Default)]
pub(super) struct WorkerLogs(HashMap<String, WorkerLog>);

impl WorkerLogs {
    /// Ends those that the worker says nothing more of: their end was lost with the connection.
    pub(super) fn end_others(&mut self, open: &[String]) {
        let open: HashSet<&String> = open.iter().collect();
        self.0.retain(|name, log| {
            let is_open = open.contains(name);
            if !is_open {
                log.end(Some(Status::data_loss(LOST)));
            }
            is_open
        });
    }

    /// Adds a piece. What cannot be added is dropped: logs are for following, and results have it all.
    pub(super) fn add(&mut self, piece: wardian::LogPiece, logs: &LogStreams, instances: &[InstanceName]) {
        if piece.offset == 0 && !self.0.contains_key(&piece.name) && self.0.len() < OPEN_MAX {
            let name = LogName::parse(&piece.name)
                .filter(|name| name.token.is_none() && instances.contains(&name.instance));
            if let Some(log) = name.and_then(|name| logs.open_for_worker(&name).ok()) {
                self.0.insert(piece.name.clone(), log);
            }
        }
        let Some(log) = self.0.get(&piece.name) else { return };
        let lost = piece.offset != log.length();
        if lost || !piece.broken.is_empty() {
            let why =
                if lost { LOST.to_owned() } else { format!("this log is not complete: {}", piece.broken) };
            log.end(Some(Status::data_loss(why)));
            self.0.remove(&piece.name);
            return;
        }
        log.append(&piece.data);
        if piece.finish {
            log.end(None);
            self.0.remove(&piece.name);
        }
    }
}

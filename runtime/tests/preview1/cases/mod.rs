//! The cases, by theme.

mod descriptors;
mod limits;
mod links;
mod listing;
mod names;
mod open;
mod pointers;
mod poll;
mod process;
mod read;
mod remove;
mod rename;
mod seek;
mod sockets;
mod stat;
mod write;

use crate::Case;

/// Everything that a case may say.
pub(crate) mod prelude {
    pub(crate) use crate::guest::call::*;
    pub(crate) use crate::guest::check::*;
    pub(crate) use crate::guest::functions::*;
    pub(crate) use crate::guest::poll::*;
    pub(crate) use crate::guest::types::*;
    pub(crate) use crate::guest::{anything, fails, gives, memory::MEMORY_BYTES, never, traps};
    pub(crate) use Errno::*;
}

/// All themes.
pub const THEMES: &[&[Case]] = &[
    descriptors::CASES,
    limits::CASES,
    links::CASES,
    listing::CASES,
    names::CASES,
    open::CASES,
    pointers::CASES,
    poll::CASES,
    process::CASES,
    read::CASES,
    remove::CASES,
    rename::CASES,
    seek::CASES,
    sockets::CASES,
    stat::CASES,
    write::CASES,
];

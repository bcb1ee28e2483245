//! The numbers of preview 1, by the names that its definition gives them.

macro_rules! errnos {
    ($($name:ident)*) => {
        /// An error number; the discriminants are those of the definition.
        #[expect(clippy::upper_case_acronyms, reason = "these are the names that everybody knows")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Errno { $($name),* }

        /// Every error number, at the index that is its value.
        pub const ERRNOS: &[Errno] = &[$(Errno::$name),*];
    };
}

errnos! {
    SUCCESS TOOBIG ACCES ADDRINUSE ADDRNOTAVAIL AFNOSUPPORT AGAIN ALREADY BADF BADMSG BUSY CANCELED CHILD
    CONNABORTED CONNREFUSED CONNRESET DEADLK DESTADDRREQ DOM DQUOT EXIST FAULT FBIG HOSTUNREACH IDRM ILSEQ
    INPROGRESS INTR INVAL IO ISCONN ISDIR LOOP MFILE MLINK MSGSIZE MULTIHOP NAMETOOLONG NETDOWN NETRESET
    NETUNREACH NFILE NOBUFS NODEV NOENT NOEXEC NOLCK NOLINK NOMEM NOMSG NOPROTOOPT NOSPC NOSYS NOTCONN NOTDIR
    NOTEMPTY NOTRECOVERABLE NOTSOCK NOTSUP NOTTY NXIO OVERFLOW OWNERDEAD PERM PIPE PROTO PROTONOSUPPORT
    PROTOTYPE RANGE ROFS SPIPE SRCH STALE TIMEDOUT TXTBSY XDEV NOTCAPABLE
}

pub const SYMLINK_FOLLOW: u64 = 1;

pub const CREAT: u64 = 1;
pub const DIRECTORY: u64 = 2;
pub const EXCL: u64 = 4;
pub const TRUNC: u64 = 8;

pub const APPEND: u64 = 1;
pub const DSYNC: u64 = 2;
pub const NONBLOCK: u64 = 4;
pub const RSYNC: u64 = 8;
pub const SYNC: u64 = 16;

pub const ATIM: u64 = 1;
pub const ATIM_NOW: u64 = 2;
pub const MTIM: u64 = 4;
pub const MTIM_NOW: u64 = 8;

/// Where a seek counts from.
pub mod whence {
    pub const SET: u32 = 0;
    pub const CUR: u32 = 1;
    pub const END: u32 = 2;
}

/// The clocks.
pub mod clock {
    pub const REALTIME: u32 = 0;
    pub const MONOTONIC: u32 = 1;
    pub const PROCESS_CPUTIME: u32 = 2;
    pub const THREAD_CPUTIME: u32 = 3;
}

/// What a name can be.
pub mod filetype {
    pub const DIRECTORY: u8 = 3;
    pub const REGULAR_FILE: u8 = 4;
    pub const SYMBOLIC_LINK: u8 = 7;
}

/// Rights of a descriptor.
pub mod rights {
    pub const FD_DATASYNC: u64 = 1 << 0;
    pub const FD_READ: u64 = 1 << 1;
    pub const FD_SEEK: u64 = 1 << 2;
    pub const FD_TELL: u64 = 1 << 5;
    pub const FD_WRITE: u64 = 1 << 6;
    pub const FD_ALLOCATE: u64 = 1 << 8;
    pub const PATH_OPEN: u64 = 1 << 13;
    pub const FD_READDIR: u64 = 1 << 14;
    pub const FD_FILESTAT_SET_SIZE: u64 = 1 << 22;
    const ALL: u64 = (1 << 30) - 1;

    /// What the C library asks for with O_RDONLY.
    pub const READ_ONLY: u64 = ALL & !(FD_DATASYNC | FD_WRITE | FD_ALLOCATE | FD_FILESTAT_SET_SIZE);
    /// What the C library asks for with O_WRONLY.
    pub const WRITE_ONLY: u64 = ALL & !(FD_READ | FD_READDIR);
    /// What the C library asks for with O_RDWR.
    pub const READ_WRITE: u64 = ALL;
}

//! A process of this host as the system names it, and what is known of it. Plain data: `transport::process` asks the system.

/// A process as the kernel names it: `SO_PEERCRED`, `SCM_CREDENTIALS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnixCredentials {
    /// In the broker's own pid namespace; 0 for a process that cannot be seen from there.
    pub pid: i32,
    /// Its effective user then.
    pub uid: u32,
    /// Its effective group then.
    pub gid: u32,
}

/// What /proc tells of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// The name of its program's file, which it may change itself.
    pub comm: String,
    /// The path of its program; none where the broker may not look (another user's process, without CAP_SYS_PTRACE).
    pub exe: Option<String>,
    /// Its control group; none where /proc does not tell.
    pub cgroup: Option<String>,
    /// When it began, in clock ticks since the machine did: with the pid it names one process for good.
    pub started: u64,
    /// That it is the process that has connected is certain: the kernel's own handle of it (`SO_PEERPIDFD`, Linux 6.5)
    /// was alive behind the look at /proc.
    pub is_exact: bool,
}

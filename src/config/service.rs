//! The variables by which a service manager speaks to the very process that it has started: whoever
//! starts another does not pass them on.

/// The sockets it has opened: see sd_listen_fds(3).
pub const SOCKETS: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"];

/// How it is to be told of the process's life: see sd_notify(3) and sd_watchdog_enabled(3).
pub const LIFE: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The directories it has made: see systemd.exec(5).
pub const DIRECTORIES: [&str; 3] = ["STATE_DIRECTORY", "RUNTIME_DIRECTORY", "LOGS_DIRECTORY"];

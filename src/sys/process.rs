//! Worker processes: fork, exec, the fds a child gets.

//! A user of the system, as the workers of an app run.

use std::path::PathBuf;

/// Whose processes the workers are, where that is not whoever runs router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
    /// All groups', its own among them.
    pub groups: Vec<u32>,
    /// The user's name, of one who is in the system's list.
    pub name: Option<String>,
    /// Its home, likewise.
    pub home: Option<PathBuf>,
}

impl Account {
    /// What its processes find in their environment, unless the app says otherwise: as after a login.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, String)> {
        let name = |variable| self.name.clone().map(|name| (variable, name));
        let home = self.home.as_ref().map(|home| ("HOME", home.display().to_string()));
        home.into_iter().chain(name("USER")).chain(name("LOGNAME"))
    }
}

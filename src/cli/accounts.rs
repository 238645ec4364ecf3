//! `uid` and `gid`: whose processes the workers are.
//!
//! Workers are processes of whoever runs router: what they share with it (a preload, sockets, logs)
//! is for that user alone. So an app that asks for somebody else is refused, and not run with more
//! rights than it was to have.

use anyhow::{Result, bail};
use nix::unistd::{Group, User, getegid, geteuid};

use crate::config::App;

/// # Errors
/// The app is to run as somebody else than who runs router, or as nobody there is.
pub(super) fn check(app: &App) -> Result<()> {
    let name = &app.name;
    // A number of our own may be in no list, as in many containers.
    let foreign =
        |word: &Option<String>, own: u32| word.clone().filter(|word| word.parse() != Ok(own));
    if let Some(user) = foreign(&app.user, geteuid().as_raw()) {
        let found = match user.parse() {
            Ok(number) => User::from_uid(nix::unistd::Uid::from_raw(number))?,
            Err(_) => User::from_name(&user)?,
        };
        let Some(found) = found else { bail!("app {name}: `uid`: there is no user {user}") };
        if found.uid != geteuid() {
            bail!(
                "app {name}: `uid` is {user}, and router runs as another user: workers are \
                 processes of whoever runs router. Run it as {user} (User={user} in the unit, or \
                 `router startup -u {user}`), and leave `uid` away"
            );
        }
    }
    if let Some(group) = foreign(&app.group, getegid().as_raw()) {
        let found = match group.parse() {
            Ok(number) => Group::from_gid(nix::unistd::Gid::from_raw(number))?,
            Err(_) => Group::from_name(&group)?,
        };
        let Some(found) = found else { bail!("app {name}: `gid`: there is no group {group}") };
        if found.gid != getegid() {
            bail!(
                "app {name}: `gid` is {group}, and router runs in another group: workers are \
                 processes of whoever runs router. Run it in that group (Group={group} in the \
                 unit), and leave `gid` away"
            );
        }
    }
    Ok(())
}

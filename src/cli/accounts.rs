//! `uid` and `gid`: whose processes the workers are.

use std::ffi::CString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};

use crate::config::{Account, App};

/// Whose processes the workers are to be; none: they are whoever's router is.
///
/// # Errors
/// There is no such user or group, or router may not run processes of anybody else's.
pub(super) fn find(app: &App) -> Result<Option<Account>> {
    let (own_uid, own_gid) = (geteuid(), getegid());
    let user = app.user.as_deref().map(find_user).transpose();
    let user = user.with_context(|| format!("app {}: `uid`", app.name))?;
    let group = app.group.as_deref().map(find_group).transpose();
    let group = group.with_context(|| format!("app {}: `gid`", app.name))?;
    let uid = user.as_ref().map_or(own_uid, |user| user.uid);
    if uid == own_uid && group.is_none_or(|gid| gid == own_gid) {
        return Ok(None);
    }
    if !own_uid.is_root() {
        bail!(
            "app {}: `uid` or `gid` is another than that of router, and only root may run processes \
             of others: leave it away and run router as that user (User= and Group= in the unit, or \
             `router startup -u NAME`), or run router as root",
            app.name
        );
    }
    let Some(gid) =
        group.or_else(|| user.as_ref()?.gid).or_else(|| (uid == own_uid).then_some(own_gid))
    else {
        bail!("app {}: no list of users has user {uid}; name a group, too, with `gid`", app.name);
    };
    let (name, home) = user.and_then(|user| user.entry).unzip();
    let groups = match &name {
        Some(name) => getgrouplist(&CString::new(name.as_str())?, gid)?,
        None => vec![gid],
    };
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(Some(Account { uid: uid.as_raw(), gid: gid.as_raw(), groups, name, home }))
}

struct Found {
    uid: Uid,
    /// The user's own group, and name and home, of one who is in the system's list.
    gid: Option<Gid>,
    entry: Option<(String, PathBuf)>,
}

impl From<User> for Found {
    fn from(user: User) -> Self {
        Self { uid: user.uid, gid: Some(user.gid), entry: Some((user.name, user.dir)) }
    }
}

/// By name or number; a number may be in no list.
fn find_user(word: &str) -> Result<Found> {
    if let Ok(number) = word.parse() {
        let uid = Uid::from_raw(number);
        let nameless = Found { uid, gid: None, entry: None };
        return Ok(User::from_uid(uid)?.map_or(nameless, Found::from));
    }
    let user = User::from_name(word)?;
    Ok(user.with_context(|| format!("there is no user {word}"))?.into())
}

/// By name or number; a number may be in no list.
fn find_group(word: &str) -> Result<Gid> {
    if let Ok(number) = word.parse() {
        return Ok(Gid::from_raw(number));
    }
    let group = Group::from_name(word)?;
    Ok(group.with_context(|| format!("there is no group {word}"))?.gid)
}

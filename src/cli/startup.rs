//! `startup` and `unstartup`: the unit by which systemd starts the daemon, and with it what was saved.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::User;

use super::commands::{Startup, Unstartup};
use super::print;

/// Where units of this host's operator are: the first place where systemd looks.
fn units() -> PathBuf {
    let path = env::var_os("SYSTEMD_UNIT_PATH").filter(|path| !path.is_empty());
    let first = path.and_then(|path| env::split_paths(&path).next());
    first.unwrap_or_else(|| "/etc/systemd/system".into())
}

/// Installs the unit, or says how to. `home` is ROUTER_HOME, if it is set.
///
/// # Errors
/// Not systemd, no such user, or the system does not let it.
pub(super) fn install(startup: &Startup, home: Option<&Path>) -> Result<ExitCode> {
    only_systemd(&startup.platform)?;
    let user = user(startup.user.as_deref())?;
    // What the daemon of the commands is asked to keep is there, unless somebody says otherwise.
    let named = home.filter(|_| startup.hp.is_none());
    let directory = startup.hp.as_ref().unwrap_or(&user.dir);
    let home = named.map_or_else(|| directory.join(".router"), Path::to_owned);
    let place = if startup.system { Place::System } else { Place::Home(&home) };
    let program = env::current_exe()?;
    let unit = unit(&user.name, place, &program);
    if startup.print {
        return print(&unit);
    }
    let given = startup.service_name.as_deref();
    let name = name(given.or_else(|| startup.system.then_some("router")), &user.name);
    if !nix::unistd::geteuid().is_root() {
        let (before, after) = match (place, named) {
            (Place::System, _) => (String::new(), " --system".to_owned()),
            (_, Some(home)) => (format!("env ROUTER_HOME={} ", home.display()), String::new()),
            (_, None) => (String::new(), format!(" --hp {}", directory.display())),
        };
        return print(&format!(
            "only root can do that:\n\n    sudo {before}{} startup systemd -u {}{after}\n",
            program.display(),
            user.name,
        ))
        .map(|_| ExitCode::FAILURE);
    }
    let path = units().join(&name);
    fs::write(&path, unit).with_context(|| format!("cannot write {}", path.display()))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", &name])?;
    let path = path.display();
    if startup.system {
        return print(&format!(
            "{path} is enabled. `systemctl start {name}` starts it now; then root's commands speak to it: \
             `router start FILE`, and `router save` for when the host starts. `router unstartup --system` \
             takes it back\n"
        ));
    }
    print(&format!(
        "{path} is enabled: what `router save` has written down runs when the host starts. To have systemd \
         keep it from now on: `router kill`, since one daemon keeps what another would, and `systemctl \
         start {name}`. `router unstartup` takes it back\n"
    ))
}

/// Where the daemon keeps its things.
#[derive(Clone, Copy)]
enum Place<'a> {
    Home(&'a Path),
    /// Where systemd makes its directories.
    System,
}

/// Removes the unit.
///
/// # Errors
/// As [`install`].
pub(super) fn remove(unstartup: &Unstartup) -> Result<ExitCode> {
    only_systemd(&unstartup.platform)?;
    let user = user(unstartup.user.as_deref())?;
    let given = unstartup.service_name.as_deref();
    let name = name(given.or_else(|| unstartup.system.then_some("router")), &user.name);
    let path = units().join(&name);
    if !path.exists() {
        return print(&format!("there is no {}\n", path.display()));
    }
    systemctl(&["disable", &name])?;
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    systemctl(&["daemon-reload"])?;
    print(&format!("{} is gone; a daemon that runs goes on\n", path.display()))
}

fn only_systemd(platform: &str) -> Result<()> {
    match platform {
        "systemd" | "ubuntu" | "centos" | "debian" | "arch" | "oracle" => Ok(()),
        other => bail!("`{other}` is not known here: startup writes units for systemd only"),
    }
}

/// The user of this name, or of this process.
fn user(name: Option<&str>) -> Result<User> {
    let found = match name {
        Some(name) => User::from_name(name)?,
        None => User::from_uid(nix::unistd::geteuid())?,
    };
    found.ok_or_else(|| anyhow!("there is no user {}", name.unwrap_or("of this process")))
}

fn name(given: Option<&str>, user: &str) -> String {
    let name = given.map_or_else(|| format!("router-{user}"), str::to_owned);
    if name.ends_with(".service") { name } else { format!("{name}.service") }
}

/// The directories that the daemon finds by what systemd says of them. What the routers of the apps
/// leave to the next daemon outlives this one.
const SYSTEM: &str = "StateDirectory=router
StateDirectoryMode=0700
RuntimeDirectory=router
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
LogsDirectory=router
LogsDirectoryMode=0700";

/// What systemd reads. `%` means something to it.
fn unit(user: &str, place: Place<'_>, program: &Path) -> String {
    let plain = |text: String| text.replace('%', "%%");
    let path = plain(env::var("PATH").unwrap_or_default());
    let program = plain(program.display().to_string());
    let place = match place {
        Place::Home(home) => {
            format!("Environment=\"ROUTER_HOME={}\"", plain(home.display().to_string()))
        }
        Place::System => SYSTEM.to_owned(),
    };
    format!(
        "[Unit]
Description=router: the Socket.IO apps of {user}
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
User={user}
Environment=\"PATH={path}\"
{place}
ExecStart=\"{program}\" daemon --resurrect
# Each app has a router process of its own, which outlives a daemon that dies.
KillMode=process
Restart=on-failure
LimitNOFILE=1048576
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
"
    )
}

fn systemctl(words: &[&str]) -> Result<()> {
    let status = Command::new("systemctl")
        .args(words)
        .status()
        .context("systemctl could not be run; is this a host with systemd?")?;
    if !status.success() {
        bail!("`systemctl {}` failed: {status}", words.join(" "));
    }
    Ok(())
}

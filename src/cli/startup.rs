//! `startup` and `unstartup`: the unit by which systemd starts the daemon, and with it what was saved.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::User;

use super::commands::{Startup, Unstartup};
use super::print;

/// Where units of this host's operator are.
const UNITS: &str = "/etc/systemd/system";

/// Installs the unit, or says how to.
///
/// # Errors
/// Not systemd, no such user, or the system does not let it.
pub(super) fn install(startup: &Startup) -> Result<ExitCode> {
    only_systemd(&startup.platform)?;
    let user = user(startup.user.as_deref())?;
    let directory = startup.hp.clone().unwrap_or_else(|| user.dir.clone());
    let unit = unit(&user.name, &directory, &env::current_exe()?);
    if startup.print {
        return print(&unit);
    }
    let name = name(startup.service_name.as_deref(), &user.name);
    if !nix::unistd::geteuid().is_root() {
        let program = env::current_exe()?;
        return print(&format!(
            "only root can do that:\n\n    sudo {} startup systemd -u {} --hp {}\n",
            program.display(),
            user.name,
            directory.display()
        ))
        .map(|_| ExitCode::FAILURE);
    }
    let path = Path::new(UNITS).join(&name);
    fs::write(&path, unit).with_context(|| format!("cannot write {}", path.display()))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", &name])?;
    print(&format!(
        "{} is enabled: what `router save` has written down runs when the host starts. \
         `systemctl start {name}` starts it now; `router unstartup` takes it back\n",
        path.display()
    ))
}

/// Removes the unit.
///
/// # Errors
/// As [`install`].
pub(super) fn remove(unstartup: &Unstartup) -> Result<ExitCode> {
    only_systemd(&unstartup.platform)?;
    let user = user(unstartup.user.as_deref())?;
    let name = name(unstartup.service_name.as_deref(), &user.name);
    let path = Path::new(UNITS).join(&name);
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

/// What systemd reads. `%` means something to it.
fn unit(user: &str, home: &Path, program: &Path) -> String {
    let plain = |text: String| text.replace('%', "%%");
    let path = plain(env::var("PATH").unwrap_or_default());
    let program = plain(program.display().to_string());
    let home: PathBuf = home.join(".router");
    let home = plain(home.display().to_string());
    format!(
        "[Unit]
Description=router: the Socket.IO apps of {user}
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
User={user}
Environment=\"PATH={path}\"
Environment=\"ROUTER_HOME={home}\"
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

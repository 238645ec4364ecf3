//! Programs of Debian's that tests put beside the router: the one on PATH, or else out of the
//! distribution's packages, fetched once into tests/.cache and unpacked there.

use super::node;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program, and the packages that it and the libraries it needs come in.
pub struct Package {
    pub program: &'static str,
    pub packages: &'static [&'static str],
    /// An argument that has it do nothing, to see that it starts.
    pub trial: &'static [&'static str],
}

/// Where it is, and which directory has its libraries, if they are not the system's.
#[derive(Debug)]
pub struct Installed {
    program: PathBuf,
    libraries: Option<PathBuf>,
}

impl Installed {
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }
}

impl Package {
    pub fn installed(&self) -> Installed {
        let installed = self.on_path().unwrap_or_else(|| self.fetched());
        self.run(installed.command().args(self.trial));
        installed
    }

    /// Distributions put some where only root looks.
    fn on_path(&self) -> Option<Installed> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
            .map(|directory| directory.join(self.program))
            .find(|program| program.is_file())
            .map(|program| Installed { program, libraries: None })
    }

    /// With lists of packages of our own: root's may be missing, and only root can fetch them.
    fn fetched(&self) -> Installed {
        let _one_at_a_time = node::lock_cache();
        let directory = node::cache().join("debian").join(self.program);
        let installed = || {
            let programs = ["usr/sbin", "usr/bin"].map(|place| directory.join(place));
            let program = programs.map(|place| place.join(self.program));
            let program = program.into_iter().find(|program| program.is_file())?;
            let libraries = directory.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
            Some(Installed { program, libraries: Some(libraries) })
        };
        // These go last: as long as they are there, something may be missing.
        let lists = directory.join("lists");
        if !lists.exists()
            && let Some(there) = installed()
        {
            return there;
        }
        fs::create_dir_all(lists.join("partial")).unwrap();
        let mut apt: Vec<String> = vec![format!("Dir::State::Lists={}", lists.display())];
        apt.extend(["Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="].map(str::to_owned));
        apt.extend(["Debug::NoLocking=true", "APT::Sandbox::User="].map(str::to_owned));
        let apt: Vec<&str> = apt.iter().flat_map(|option| ["-o", option]).collect();
        let give = |program: &str, words: &[&str]| {
            self.run(Command::new(program).args(words).current_dir(&directory));
        };
        give("apt-get", &[&apt[..], &["update"]].concat());
        give("apt-get", &[&apt[..], &["download"], self.packages].concat());
        for entry in fs::read_dir(&directory).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            if Path::new(&file).extension().is_some_and(|kind| kind == "deb") {
                give("dpkg-deb", &["-x", &file, "."]);
            }
        }
        fs::remove_dir_all(lists).unwrap();
        installed().unwrap_or_else(|| panic!("{:?} have no {}", self.packages, self.program))
    }

    fn run(&self, command: &mut Command) {
        let (success, said) = match command.output() {
            Ok(output) => {
                (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
            }
            Err(error) => (false, error.to_string()),
        };
        let name = self.program;
        assert!(success, "no {name}: neither on PATH nor fetched; install it. {command:?}: {said}");
    }
}

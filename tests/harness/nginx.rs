//! nginx in front of what is tested, as a reverse proxy that keeps its upstream connections: the
//! one on PATH, or else the distribution's package, fetched once into tests/.cache and unpacked
//! there.

use super::http::free_port;
use super::log::Log;
use super::plain::end;
use super::{Connection, SOON, TempDir, node, until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A running nginx. Dropping it ends it, and a failing test shows what it complained of.
pub struct Nginx {
    pub port: u16,
    child: Child,
    log: Log,
    _directory: TempDir,
}

impl Nginx {
    /// In front of a server on this port, with one kept connection to it.
    #[track_caller]
    pub fn before(upstream: u16) -> Self {
        let (port, directory) = (free_port(), TempDir::new());
        let config = directory.write("nginx.conf", &configuration(port, upstream));
        let mut child = Command::new(program())
            .args(["-e", "stderr", "-p"])
            .arg(directory.path())
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nginx starts");
        let log = Log::default();
        log.follow(child.stdout.take().unwrap());
        log.follow(child.stderr.take().unwrap());
        let mut nginx = Self { port, child, log, _directory: directory };
        until("nginx listens", SOON, || {
            let ended = nginx.child.try_wait().unwrap();
            assert!(ended.is_none(), "nginx ended: {ended:?}");
            Connection::connects(port).then_some(())
        });
        nginx
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            eprintln!("--- nginx's output ---\n{}---", self.log.text());
        }
    }
}

/// One process, so that its end is the end of all of it; nothing outside its directory.
fn configuration(port: u16, upstream: u16) -> String {
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 4m;
  keepalive_requests 10000;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream application {{
    server 127.0.0.1:{upstream};
    keepalive 1;
    keepalive_requests 10000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://application;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"
    )
}

fn program() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| installed().unwrap_or_else(fetched))
}

/// Distributions put it where only root looks.
fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join("nginx"))
        .find(|program| program.is_file())
}

/// With lists of packages of our own: root's may be missing, and only root can fetch them.
fn fetched() -> PathBuf {
    let _one_at_a_time = node::lock_cache();
    let directory = node::cache().join("debian");
    let program = directory.join("usr/sbin/nginx");
    if !program.exists() {
        let lists = directory.join("lists");
        fs::create_dir_all(lists.join("partial")).unwrap();
        let mut apt: Vec<String> = vec![format!("Dir::State::Lists={}", lists.display())];
        apt.extend(["Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="].map(str::to_owned));
        apt.extend(["Debug::NoLocking=true", "APT::Sandbox::User="].map(str::to_owned));
        let apt: Vec<&str> = apt.iter().flat_map(|option| ["-o", option]).collect();
        run(&directory, "apt-get", &[&apt[..], &["update"]].concat());
        run(&directory, "apt-get", &[&apt[..], &["download", "nginx"]].concat());
        let package = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .find(|name| name.starts_with("nginx_") && name.ends_with(".deb"));
        run(&directory, "dpkg-deb", &["-x", &package.expect("apt-get downloads a package"), "."]);
        fs::remove_dir_all(lists).unwrap();
    }
    run(&directory, program.to_str().unwrap(), &["-e", "stderr", "-v"]);
    program
}

fn run(directory: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    let (success, said) = match output {
        Ok(output) => {
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        }
        Err(error) => (false, error.to_string()),
    };
    let command = format!("{program} {}", arguments.join(" "));
    assert!(success, "no nginx: neither on PATH nor fetched; install it. {command}: {said}");
}

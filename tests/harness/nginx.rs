//! nginx in front of what is tested, as a reverse proxy that keeps its upstream connections.

use super::debian::Package;
use super::http::free_port;
use super::log::Log;
use super::plain::end;
use super::{Connection, SOON, TempDir, until};
use std::process::{Child, Stdio};

const NGINX: Package =
    Package { program: "nginx", packages: &["nginx"], trial: &["-e", "stderr", "-v"] };

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
        let mut child = NGINX
            .installed()
            .command()
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

//! The workers' log files: which there are, what they are called, how their lines look and when
//! they are rotated. Names follow PM2, rotation follows its module pm2-logrotate.
//!
//! | file | without `--log-dir` | with it |
//! |---|---|---|
//! | `out_file` | none | `NAME-out.log` there |
//! | `error_file` | none | `NAME-error.log` there |
//! | `log_file`, both streams | none | none; `true`: `NAME.log` there |
//!
//! Before `.log` comes the number of the worker, unless the logs are merged; a name that does not
//! end in `.log` has no place for it, so that all workers share the file. As under PM2.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::app::joined;
use super::{DateFormat, seconds};

/// How large a file grows before it is rotated, in bytes.
const LOG_SIZE: u64 = 10 << 20;
/// How old it grows.
const LOG_AGE: Duration = DAY;
/// How many rotated files are kept of each.
const LOG_KEEP: usize = 30;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The oldest that a file may be asked to grow, in days.
const AGE_MAX: u32 = 366;

/// What PM2 takes for "no file".
const NOWHERE: [&str; 2] = ["/dev/null", "NULL"];

/// Which files an app's workers write, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// Which.
    pub targets: Targets,
    /// The time before each line; none unless asked for.
    pub date: Option<DateFormat>,
    /// How a line looks.
    pub form: LogForm,
    /// When a file is rotated.
    pub rotation: Rotation,
    /// The router's own output shows the workers' lines, too.
    pub shown: bool,
}

/// The files before the workers' numbers are put in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Stdout.
    pub out: Option<Target>,
    /// Stderr.
    pub error: Option<Target>,
    /// Both.
    pub both: Option<Target>,
    /// No numbers in the names.
    pub merged: bool,
}

/// A file before the worker's number is put in, and which setting names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Absolute, or below `~`.
    pub path: PathBuf,
    /// For an error: the key or option.
    #[serde(skip)]
    pub setting: &'static str,
}

/// `log_type`: how a line looks in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogForm {
    /// As the worker wrote it, behind the time if that is asked for.
    #[default]
    Raw,
    /// A JSON object with PM2's fields.
    Json,
}

/// When a file is rotated, and how many rotated ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Before it is larger, in bytes.
    pub size: Option<u64>,
    /// At each multiple of this time, counted from midnight of the local time.
    pub age: Option<Duration>,
    /// So many of each file; the oldest go first.
    pub keep: usize,
}

/// One file of a worker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// What is written there.
    pub path: PathBuf,
    /// The key or option it comes from.
    pub setting: &'static str,
    /// It gets stdout.
    pub out: bool,
    /// It gets stderr.
    pub error: bool,
}

impl Rotation {
    /// By size alone, 0 being never; with the defaults where nothing is said.
    #[must_use]
    pub fn by_size(size: Option<u64>, keep: Option<usize>) -> Self {
        let size = Some(size.unwrap_or(LOG_SIZE)).filter(|size| *size > 0);
        Self { size, age: None, keep: keep.unwrap_or(LOG_KEEP) }
    }
}

impl Targets {
    /// The files of the worker with this number; each once, whatever goes there.
    #[must_use]
    pub fn files(&self, number: u32) -> Vec<LogFile> {
        let targets =
            [(&self.out, true, false), (&self.error, false, true), (&self.both, true, true)];
        let mut files: Vec<LogFile> = Vec::new();
        for (target, out, error) in targets {
            let Some(Target { path, setting }) = target else { continue };
            let path = if self.merged { path.clone() } else { numbered(path, ".log", number) };
            match files.iter_mut().find(|file| file.path == path) {
                Some(file) => (file.out, file.error) = (file.out || out, file.error || error),
                None => files.push(LogFile { path, setting, out, error }),
            }
        }
        files
    }

    /// The first file that stdout of the worker with this number goes to, and that stderr does.
    #[must_use]
    pub fn streams(&self, number: u32) -> [Option<PathBuf>; 2] {
        let files = self.files(number);
        let first = |of: fn(&LogFile) -> bool| {
            files.iter().find(|file| of(file)).map(|file| file.path.clone())
        };
        [first(|file| file.out), first(|file| file.error)]
    }
}

/// `pid_file`, before the worker's number is put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile(pub(super) PathBuf);

impl PidFile {
    /// The file of the worker with this number; absolute, or below `~`.
    #[must_use]
    pub fn of(&self, number: u32) -> PathBuf {
        numbered(&self.0, ".pid", number)
    }
}

/// With the home directory in the place of `~`.
#[must_use]
pub fn at_home(path: &Path, home: Option<&Path>) -> PathBuf {
    let below = path.strip_prefix("~").ok().zip(home);
    below.map_or_else(|| path.to_owned(), |(below, home)| home.join(below))
}

/// `x.log` and `x-7.log` with the worker's number: `x-3.log`. Names with other endings stay as they
/// are.
fn numbered(path: &Path, ending: &str, number: u32) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let Some(stem) = name.as_deref().and_then(|name| name.strip_suffix(ending)) else {
        return path.to_owned();
    };
    let bare = stem.trim_end_matches(|digit: char| digit.is_ascii_digit());
    let before = if bare.len() < stem.len() { bare.strip_suffix('-') } else { None };
    path.with_file_name(format!("{}-{number}{ending}", before.unwrap_or(stem)))
}

/// What one layer of settings says of the logs; `None` says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawLogs {
    /// `out_file`.
    pub out_file: Option<PathBuf>,
    /// `error_file`.
    pub error_file: Option<PathBuf>,
    /// `log_file`.
    pub log_file: Option<Combined>,
    /// Where the files are that no other setting names.
    pub directory: Option<PathBuf>,
    /// See [`Targets::merged`].
    pub merge_logs: Option<bool>,
    /// See [`Logs::date`].
    pub date_format: Option<DateFormat>,
    /// The pattern of [`DateFormat::iso`] instead.
    pub time: Option<bool>,
    /// See [`Logs::form`].
    pub form: Option<LogForm>,
    /// No files, and nothing shown.
    pub disabled: Option<bool>,
    /// See [`Rotation::size`]; 0 is never.
    pub max_size: Option<u64>,
    /// See [`Rotation::age`]; 0 is never.
    pub max_age: Option<Duration>,
    /// See [`Rotation::keep`].
    pub keep: Option<usize>,
}

/// `log_file`, which may be true or false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Combined {
    /// true: under its usual name, in the directory of the logs.
    Usual,
    /// A path; `/dev/null` for false.
    Path(PathBuf),
}

/// What the names and paths are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming<'a> {
    /// The app's name.
    pub(super) app: &'a str,
    /// What relative paths are relative to.
    pub(super) cwd: &'a Path,
    /// Whether the logs are merged if nobody says.
    pub(super) merged: bool,
}

impl RawLogs {
    /// This layer laid over `below`.
    pub(super) fn over(self, below: Self) -> Self {
        // Two ways to say one thing: a layer that uses either has said it.
        let dated = self.time == Some(true) || self.date_format.is_some();
        let (time, date_format) =
            if dated { (self.time, self.date_format) } else { (below.time, below.date_format) };
        Self {
            out_file: self.out_file.or(below.out_file),
            error_file: self.error_file.or(below.error_file),
            log_file: self.log_file.or(below.log_file),
            directory: self.directory.or(below.directory),
            merge_logs: self.merge_logs.or(below.merge_logs),
            date_format,
            time,
            form: self.form.or(below.form),
            disabled: self.disabled.or(below.disabled),
            max_size: self.max_size.or(below.max_size),
            max_age: self.max_age.or(below.max_age),
            keep: self.keep.or(below.keep),
        }
    }

    /// Fills what is still open.
    pub(super) fn resolve(self, naming: Naming<'_>) -> Logs {
        let Naming { app, cwd, merged } = naming;
        let directory = self.directory.map(|directory| absolute(cwd, &directory));
        let name = file_name(app);
        let usual = |ending: &str| {
            let path = directory.as_ref()?.join(format!("{name}{ending}.log"));
            Some(Target { path, setting: "--log-dir" })
        };
        let named = |path: &Path, setting| {
            let nowhere = NOWHERE.iter().any(|nowhere| path == Path::new(nowhere));
            (!nowhere).then(|| Target { path: absolute(cwd, path), setting })
        };
        let one = |path: Option<PathBuf>, setting, ending| match path {
            Some(path) => named(&path, setting),
            None => usual(ending),
        };
        let both = match self.log_file {
            Some(Combined::Usual) => usual(""),
            Some(Combined::Path(path)) => named(&path, "log_file"),
            None => None,
        };
        let disabled = self.disabled == Some(true);
        let kept = |target: Option<Target>| target.filter(|_| !disabled);
        let date = if self.time == Some(true) { Some(DateFormat::iso()) } else { self.date_format };
        Logs {
            targets: Targets {
                out: kept(one(self.out_file, "out_file, --output", "-out")),
                error: kept(one(self.error_file, "error_file, --error", "-error")),
                both: kept(both),
                merged: self.merge_logs.unwrap_or(merged),
            },
            date,
            form: self.form.unwrap_or_default(),
            rotation: Rotation {
                age: Some(self.max_age.unwrap_or(LOG_AGE)).filter(|age| !age.is_zero()),
                ..Rotation::by_size(self.max_size, self.keep)
            },
            shown: !disabled && directory.is_none(),
        }
    }
}

/// Under `~` it stays: the home directory is the environment's to tell.
pub(super) fn absolute(cwd: &Path, path: &Path) -> PathBuf {
    if path.starts_with("~") { path.to_owned() } else { joined(cwd, path) }
}

/// The app's name as PM2 writes it in a file's name.
fn file_name(app: &str) -> String {
    let kept = |letter: char| letter.is_ascii_alphanumeric() || ".-\\".contains(letter);
    app.chars().map(|letter| if kept(letter) { letter } else { '-' }).collect()
}

/// `--log-max-age`: seconds, or with a unit of time; days, too.
///
/// # Errors
/// It is none of these, or more than a year.
pub fn age(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let days = text.strip_suffix('d').map(|days| days.trim().parse::<u32>());
    match days {
        Some(Ok(days @ 0..=AGE_MAX)) => Ok(DAY * days),
        Some(_) => Err(format!("`{text}` is no age; write days up to {AGE_MAX}d")),
        None => seconds(text).map_err(|error| format!("{error}, or days (30d)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming() -> Naming<'static> {
        Naming { app: "my chat", cwd: Path::new("/srv/app"), merged: false }
    }

    fn paths(raw: RawLogs, number: u32) -> Vec<String> {
        let files = raw.resolve(naming()).targets.files(number);
        files.into_iter().map(|file| file.path.display().to_string()).collect()
    }

    #[test]
    fn without_a_word_there_are_no_files_and_lines_are_shown() {
        let logs = RawLogs::default().resolve(naming());
        assert_eq!((logs.targets.files(0), logs.shown), (vec![], true));
        let rotation = Rotation { size: Some(10 << 20), age: Some(DAY), keep: 30 };
        assert_eq!(logs.rotation, rotation);
    }

    #[test]
    fn the_number_goes_before_the_extension_as_under_pm2() {
        for (given, path) in [
            ("x.log", "/srv/app/x-4.log"),
            ("./logs/x.log", "/srv/app/logs/x-4.log"),
            ("/var/log/x-17.log", "/var/log/x-4.log"),
            ("x17.log", "/srv/app/x17-4.log"),
            ("x.17.log", "/srv/app/x.17-4.log"),
            (".log", "/srv/app/-4.log"),
            // No place for it.
            ("x.txt", "/srv/app/x.txt"),
            ("x", "/srv/app/x"),
            ("~/x.log", "~/x-4.log"),
        ] {
            let raw = RawLogs { out_file: Some(given.into()), ..RawLogs::default() };
            assert_eq!(paths(raw.clone(), 4), [path], "{given}");
            let merged = RawLogs { merge_logs: Some(true), ..raw };
            assert!(!paths(merged, 4)[0].contains("-4"), "{given}");
        }
    }

    #[test]
    fn a_directory_names_what_nothing_else_does() {
        let raw = RawLogs { directory: Some("logs".into()), ..RawLogs::default() };
        let both = ["/srv/app/logs/my-chat-out-2.log", "/srv/app/logs/my-chat-error-2.log"];
        assert_eq!(paths(raw.clone(), 2), both);
        assert!(!raw.clone().resolve(naming()).shown);
        let combined = RawLogs { log_file: Some(Combined::Usual), ..raw.clone() };
        assert_eq!(paths(combined, 2)[2], "/srv/app/logs/my-chat-2.log");
        let nowhere = RawLogs {
            out_file: Some("NULL".into()),
            error_file: Some("/dev/null".into()),
            ..raw.clone()
        };
        assert_eq!(paths(nowhere, 2), Vec::<String>::new());
        let disabled = RawLogs { disabled: Some(true), ..raw }.resolve(naming());
        assert_eq!((disabled.targets.files(0), disabled.shown), (vec![], false));
    }

    #[test]
    fn one_path_for_everything_is_one_file() {
        let raw = RawLogs {
            out_file: Some("a.log".into()),
            error_file: Some("./a.log".into()),
            log_file: Some(Combined::Path("a.log".into())),
            ..RawLogs::default()
        };
        let files = raw.resolve(naming()).targets.files(0);
        assert_eq!(files.len(), 1);
        assert!(files[0].out && files[0].error);
    }

    #[test]
    fn a_layer_that_dates_its_lines_has_said_how() {
        let format = |text: &str| RawLogs {
            date_format: Some(text.parse().expect("fine")),
            ..RawLogs::default()
        };
        let time = RawLogs { time: Some(true), ..RawLogs::default() };
        let date = |raw: RawLogs| raw.resolve(naming()).date;
        assert_eq!(date(time.clone().over(format("YYYY"))), Some(DateFormat::iso()));
        assert_eq!(date(format("YYYY").over(time)), "YYYY".parse().ok());
        let off = RawLogs { time: Some(false), ..RawLogs::default() };
        assert_eq!(date(off.over(format("YYYY"))), "YYYY".parse().ok());
        // In one layer --time wins, as under PM2.
        let both = RawLogs { time: Some(true), ..format("YYYY") };
        assert_eq!(date(both), Some(DateFormat::iso()));
    }

    #[test]
    fn ages() {
        for (text, wanted) in
            [("30d", DAY * 30), ("3600", DAY / 24), ("12h", DAY / 2), ("0", Duration::ZERO)]
        {
            assert_eq!(age(text), Ok(wanted), "{text}");
        }
        for text in ["", "d", "1.5d", "999d", "soon", "-1"] {
            let error = age(text).expect_err(text);
            assert!(error.contains("days"), "{text}: {error}");
        }
    }
}

//! Which apps and workers are meant by the words of a command. Pure.

use std::collections::BTreeSet;

/// What is to be known of an app to find it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The workers' numbers, by slot.
    pub ids: &'a [u32],
}

/// One app that is meant, by its place in the list; and the slots, if only some are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// Which.
    pub app: usize,
    /// Of which workers.
    pub slots: Option<Vec<u16>>,
}

/// The apps and workers that are meant by these words, each once, in the list's order.
///
/// # Errors
/// A word that means none; the message says which there are.
pub fn meant(targets: &[String], apps: &[Known<'_>]) -> Result<Vec<Meant>, String> {
    let mut whole = BTreeSet::new();
    let mut some: BTreeSet<(usize, u16)> = BTreeSet::new();
    for target in targets {
        if target == "all" {
            whole.extend(0..apps.len());
            continue;
        }
        if let Some((app, slot)) = by_id(target, apps) {
            // One worker alone is the app.
            if apps[app].ids.len() == 1 {
                whole.insert(app);
            } else {
                some.insert((app, slot));
            }
            continue;
        }
        let of = |same: &dyn Fn(&Known<'_>) -> bool| -> Vec<usize> {
            (0..apps.len()).filter(|app| same(&apps[*app])).collect()
        };
        let mut found = of(&|app| app.name == target);
        if found.is_empty() {
            found = of(&|app| app.namespace == target);
        }
        if found.is_empty() {
            return Err(unknown(target, apps));
        }
        whole.extend(found);
    }
    let chosen = |app: usize| {
        let slots: Vec<u16> =
            some.iter().filter(|(other, _)| *other == app).map(|(_, slot)| *slot).collect();
        match whole.contains(&app) {
            true => Some(Meant { app, slots: None }),
            false if slots.is_empty() => None,
            false => Some(Meant { app, slots: Some(slots) }),
        }
    };
    Ok((0..apps.len()).filter_map(chosen).collect())
}

/// Whether an app can be called so, and be meant by it.
///
/// # Errors
/// It cannot; what is wrong with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    let why = match name {
        "" => "it has no letter",
        "all" => "that word means every app",
        name if name.starts_with('-') => "a word that begins so is an option",
        name if name.chars().any(char::is_control) => "it has a control character in it",
        _ => return Ok(()),
    };
    Err(format!("no app can be called {name:?}: {why}. Give it another `name` (--name)"))
}

/// What is to be known of a name that an app can have, and better had not.
#[must_use]
pub fn warning(name: &str) -> Option<String> {
    name.parse::<u32>().is_ok().then(|| {
        format!("the name is a number: `{name}` means the worker of that id first, if there is one")
    })
}

fn by_id(target: &str, apps: &[Known<'_>]) -> Option<(usize, u16)> {
    let id: u32 = target.parse().ok()?;
    apps.iter().enumerate().find_map(|(app, known)| {
        let slot = known.ids.iter().position(|other| *other == id)?;
        Some((app, u16::try_from(slot).ok()?))
    })
}

fn unknown(target: &str, apps: &[Known<'_>]) -> String {
    if apps.is_empty() {
        return format!("there is no `{target}`: no app has been started (router start app.js)");
    }
    let names: Vec<&str> = apps.iter().map(|app| app.name).collect();
    format!(
        "there is no app, id or namespace `{target}`; there are {} (router list shows them)",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPS: [Known<'static>; 3] = [
        Known { name: "chat", namespace: "web", ids: &[0, 1] },
        Known { name: "api", namespace: "web", ids: &[2] },
        Known { name: "7", namespace: "default", ids: &[5] },
    ];

    type Found = Vec<(usize, Option<Vec<u16>>)>;

    fn found(targets: &[&str]) -> Result<Found, String> {
        let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
        let meant = meant(&targets, &APPS)?;
        Ok(meant.into_iter().map(|meant| (meant.app, meant.slots)).collect())
    }

    #[test]
    fn apps_are_found_by_name_number_and_namespace() {
        for (targets, apps) in [
            (&["chat"][..], vec![(0, None)]),
            (&["api", "chat", "api"], vec![(0, None), (1, None)]),
            (&["web"], vec![(0, None), (1, None)]),
            (&["all"], vec![(0, None), (1, None), (2, None)]),
            (&["1"], vec![(0, Some(vec![1]))]),
            (&["1", "0"], vec![(0, Some(vec![0, 1]))]),
            (&["1", "chat"], vec![(0, None)]),
            (&["2"], vec![(1, None)]),
            (&["7"], vec![(2, None)]),
            (&["5"], vec![(2, None)]),
        ] {
            assert_eq!(found(targets), Ok(apps), "{targets:?}");
        }
    }

    #[test]
    fn a_name_that_means_something_else_is_refused() {
        for name in ["", "all", "-x", "a\nb", "\u{1b}[31mred"] {
            let told = check_name(name).expect_err("it is none");
            assert!(told.contains("--name") && !told.contains(char::is_control), "{told}");
        }
        for name in ["chat", "All", "chat-2.x", "é", "a b", "7"] {
            check_name(name).expect("it is one");
        }
        assert!(warning("7").is_some() && warning("7a").is_none() && warning("chat").is_none());
    }

    #[test]
    fn what_means_nothing_is_told_with_what_there_is() {
        let told = found(&["chat", "caht"]).expect_err("no such app");
        assert!(told.contains("`caht`") && told.contains("chat, api, 7"), "{told}");
        assert!(
            meant(&["x".to_owned()], &[]).expect_err("none").contains("no app has been started")
        );
        assert_eq!(meant(&["all".to_owned()], &[]), Ok(vec![]));
    }
}

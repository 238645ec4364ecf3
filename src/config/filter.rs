//! `filter_env`: which of the router's own variables a worker does not see.

/// See the module's text. What the app's own `env` says is passed on in any case, as under PM2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterEnv {
    /// `true`: none is passed on.
    All,
    /// A string: this variable is not.
    Named(String),
    /// A list: those are not whose names contain one of these.
    Containing(Vec<String>),
}

impl FilterEnv {
    /// Whether a variable of this name is kept from the workers.
    #[must_use]
    pub fn hides(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(hidden) => name == hidden,
            Self::Containing(parts) => parts.iter().any(|part| name.contains(part.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_hidden_as_pm2_hides_it() {
        let named = FilterEnv::Named("AWS_KEY".to_owned());
        assert!(named.hides("AWS_KEY") && !named.hides("AWS_KEY_2"));
        let parts = FilterEnv::Containing(vec!["AWS".to_owned(), "TOKEN".to_owned()]);
        assert!(parts.hides("AWS_KEY") && parts.hides("NPM_TOKEN") && !parts.hides("PATH"));
        assert!(!FilterEnv::Containing(Vec::new()).hides("PATH") && FilterEnv::All.hides("PATH"));
    }
}

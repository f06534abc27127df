//! As whom a client comes, of `pub`, `sub` and `bench`.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;

use super::{UsageError, password, server};
use crate::client::{ClientError, Disconnection, Options};
use crate::mqtt::{ReasonCode, Utf8String};

/// The options that say it.
#[derive(Debug, Args)]
pub(super) struct LoginArguments {
    /// User name; the password is asked for at a terminal, or comes from --password-file or TIDEGATE_PASSWORD
    #[arg(short, long, value_parser = server::text, help_heading = "Client")]
    user: Option<Utf8String>,
    /// File with the password in its first line
    #[arg(long, value_name = "FILE", help_heading = "Client")]
    password_file: Option<PathBuf>,
    /// Only there to say why there is none.
    #[arg(short = 'P', hide = true, value_name = "PASSWORD", num_args = 0..=1, default_missing_value = "")]
    password: Option<String>,
}

/// What the client shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Login {
    pub(super) user_name: Option<Utf8String>,
    pub(super) password: Option<Bytes>,
}

impl LoginArguments {
    /// Refuses a password among the arguments.
    ///
    /// # Errors
    /// [`UsageError`], with what to do instead.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.password {
            None => Ok(()),
            Some(_) => Err(UsageError::new(format_args!(
                "a password in the arguments can be read by every user of this machine; use --password-file FILE, or \
                 set {}, or leave it out to be asked",
                password::VARIABLE
            ))),
        }
    }

    /// The user, `otherwise` where none is named, and the password; asks for it where `may_ask` and somebody is there.
    ///
    /// # Errors
    /// Where the password file cannot be used, or the terminal is closed.
    pub(super) fn find(&self, otherwise: Option<Utf8String>, may_ask: bool) -> anyhow::Result<Login> {
        self.check()?;
        let user_name = self.user.clone().or(otherwise);
        let password = password::find(self.password_file.as_deref(), user_name.is_some() && may_ask)?;
        Ok(Login {
            user_name,
            password: password.map(Bytes::from),
        })
    }
}

impl Login {
    /// What `options` show.
    pub(super) fn of(options: &Options) -> Self {
        Self {
            user_name: options.user_name.clone(),
            password: options.password.clone(),
        }
    }

    /// What to do about a server that refused the login for `reason`; empty where nothing is missing.
    pub(super) fn hint(&self, reason: ReasonCode) -> &'static str {
        if !matches!(
            reason,
            ReasonCode::NotAuthorized | ReasonCode::BadUserNameOrPassword
        ) {
            return "";
        }
        match (&self.user_name, &self.password) {
            (None, _) => {
                "; name the user with -u NAME (the password is asked for, or comes from --password-file or \
                 TIDEGATE_PASSWORD)"
            }
            (Some(_), None) => "; give the user's password by --password-file FILE or TIDEGATE_PASSWORD",
            (Some(_), Some(_)) => "",
        }
    }

    /// `error` with what to do about it, where a server refused the login.
    pub(super) fn advise(&self, error: anyhow::Error) -> anyhow::Error {
        let disconnection = match error.downcast_ref::<ClientError>() {
            Some(ClientError::Disconnected(why)) => Some(why),
            _ => error.downcast_ref::<Disconnection>(),
        };
        let hint = match disconnection {
            Some(Disconnection::Refused(reason, _)) => self.hint(*reason),
            _ => "",
        };
        match hint {
            "" => error,
            hint => anyhow::anyhow!("{error:#}{hint}"),
        }
    }
}

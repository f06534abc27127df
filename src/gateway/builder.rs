//! What a program of its own adds to a gateway before it runs.

use std::time::Duration;

use super::{Gateway, StartError};
use crate::config::Settings;
use crate::hooks::Hook;
use crate::kick::{self, KickHandle, KickQueue};

/// How long a hook's answer may take where nothing else is said: well within what clients wait for a CONNACK.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// A gateway that is being put together: settings, and hooks of the embedder's own.
pub struct Builder {
    pub(super) settings: Settings,
    pub(super) hooks: Vec<Box<dyn Hook>>,
    pub(super) hook_timeout: Option<Duration>,
    pub(super) kick_handle: KickHandle,
    pub(super) kicks: KickQueue,
}

impl Builder {
    pub(super) fn new(settings: Settings) -> Self {
        let (kick_handle, kicks) = kick::queue(&settings.limits);
        Self {
            settings,
            hooks: Vec::new(),
            hook_timeout: None,
            kick_handle,
            kicks,
        }
    }

    /// Adds a hook; they are asked in the order they were added, those of the configuration before them.
    #[must_use]
    pub fn hook(mut self, hook: Box<dyn Hook>) -> Self {
        self.hooks.push(hook);
        self
    }

    /// How long an answer may take that a hook gives [later](crate::hooks::Later), before it counts as a refusal;
    /// otherwise what the configuration says, or [`HOOK_TIMEOUT`].
    #[must_use]
    pub fn hook_timeout(mut self, timeout: Duration) -> Self {
        self.hook_timeout = Some(timeout);
        self
    }

    /// What clients are sent away by, for hooks that want to.
    pub fn kick_handle(&self) -> KickHandle {
        self.kick_handle.clone()
    }

    /// Reads the files that the settings name and binds the listeners; call it inside the runtime that will run the
    /// gateway.
    ///
    /// # Errors
    /// [`StartError`] for the first file that cannot be used or address that cannot be bound.
    pub fn bind(self) -> Result<Gateway, StartError> {
        Gateway::build(self)
    }
}

//! The hooks that the configuration names, and how a reload changes them.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use super::answers::Letterbox;
use super::{HOOK_TIMEOUT, random_bytes};
use crate::broker::Installation;
use crate::callback::{self, Controls};
use crate::config::Settings;
use crate::hooks::Hook;
use crate::hooks::rewrite::Rewriting;
use crate::net::tls::Connector;

/// What runs of them.
pub(super) struct OwnHooks {
    letterbox: Arc<Letterbox>,
    /// What the embedder said; it counts more than the configuration.
    timeout: Option<Duration>,
    callback: Option<RunningCallback>,
}

struct RunningCallback {
    controls: Controls,
    workers: AbortHandle,
}

impl OwnHooks {
    /// None yet; `timeout` is how long an answer may take, whatever the configuration says.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self {
            letterbox: Arc::default(),
            timeout,
            callback: None,
        }
    }

    /// Where answers go that are given later.
    pub(super) fn letterbox(&self) -> Arc<Letterbox> {
        self.letterbox.clone()
    }

    /// Makes the hooks of `settings`; `connector` is what was read for their callback, which runs among `tasks`, and
    /// the one that ran before does not any more.
    pub(super) fn make(
        &mut self,
        settings: &Settings,
        connector: Option<Connector>,
        tasks: &mut JoinSet<()>,
    ) -> Installation {
        if let Some(old) = self.callback.take() {
            old.workers.abort();
        }
        let mut hooks: Vec<Box<dyn Hook>> = Vec::new();
        let rules = settings.hooks.rewrite.clone();
        if !rules.is_empty() {
            hooks.push(Box::new(Rewriting::new(rules)));
        }
        if let Some(http) = settings.hooks.http.clone() {
            let users = settings.users.clone();
            let (hook, workers, controls) = callback::callback(http, connector, users, &random_bytes());
            hooks.push(Box::new(hook));
            let workers = tasks.spawn_local(workers.run());
            self.callback = Some(RunningCallback { controls, workers });
        }
        Installation {
            hooks,
            post: self.letterbox(),
            timeout: (self.timeout.or(settings.hooks.timeout)).unwrap_or(HOOK_TIMEOUT),
        }
    }

    /// Takes on `new` settings in the place of `old` ones; the hooks that are to be installed, where they are others.
    pub(super) fn change(
        &mut self,
        old: &Settings,
        new: &Settings,
        connector: Option<Connector>,
        tasks: &mut JoinSet<()>,
    ) -> Option<Installation> {
        if old.hooks != new.hooks {
            return Some(self.make(new, connector, tasks));
        }
        if let Some(callback) = &self.callback {
            callback.controls.replace(new.users.clone(), connector);
        }
        None
    }
}

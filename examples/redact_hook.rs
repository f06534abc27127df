//! A gateway of one's own with a hook: positions are blacked out before anybody reads them, and only the user "map"
//! publishes below `map/`. Try it: `cargo run --example redact_hook`, then publish on `cars/1/position`.

use bytes::Bytes;
use tidegate::auth::Identity;
use tidegate::board::Boards;
use tidegate::config::Settings;
use tidegate::gateway::{self, Gateway};
use tidegate::hooks::{Change, Client, Hook, Interests, Later, Message, Verdict};

struct Redact;

impl Hook for Redact {
    fn name(&self) -> &str {
        "redact"
    }

    fn interests(&self) -> Interests {
        Interests::MESSAGE | Interests::PUBLISH
    }

    fn message(&mut self, _: &Client<'_>, message: &Message<'_>) -> Change {
        match message.topic.as_str().ends_with("/position") {
            true => Change::Replace {
                topic: None,
                payload: Some(Bytes::from_static(b"somewhere")),
            },
            false => Change::Keep,
        }
    }

    fn publish(&mut self, from: &Client<'_>, message: &Message<'_>, _: &mut Later<'_>) -> Verdict {
        let is_map = matches!(from.identity, Identity::User(user) if user.as_str() == "map");
        match message.topic.as_str().starts_with("map/") && !is_map {
            true => Verdict::Deny,
            false => Verdict::Abstain,
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::local(&[], Boards::compiled_in().base().clone())?;
    gateway::runtime()?.block_on(async {
        let gateway = Gateway::builder(settings).hook(Box::new(Redact)).bind()?;
        for (name, endpoint) in gateway.addresses() {
            println!("{name}: {endpoint}");
        }
        gateway.run(std::future::pending()).await;
        Ok(())
    })
}

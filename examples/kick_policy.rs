//! A gateway with a policy of its own: a thread watches how much each client publishes, and sends away who publishes
//! too much. It may ask for that at any moment, whatever the gateway is doing: the kick waits for the tick.
//!
//! ```text
//! cargo run --example kick_policy
//! tidegate pub --topic t --message hello        # as often as you like, but not 100 times a second
//! ```

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use tidegate::board::Boards;
use tidegate::broker::{KickOptions, KickReason, Target};
use tidegate::config::Settings;
use tidegate::gateway::{self, Gateway};
use tidegate::kick::{KickError, KickHandle};
use tidegate::mqtt::ClientId;
use tidegate::watch::Watch;

/// Messages in a second that are too many.
const RATE_MAX: u64 = 100;

/// How long an offender is kept out.
const KEEP_OUT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:1883".into());
    let board = Boards::compiled_in().detect_here().clone();
    let settings = Settings::local(&[address.parse()?], board)?;
    gateway::runtime()?.block_on(async {
        let gateway = Gateway::bind(settings)?;
        let (watch, kicks) = (gateway.watch(), gateway.kick_handle());
        let policy = thread::spawn(move || keep_the_peace(&watch, &kicks));
        gateway
            .run(async {
                let _ = tokio::signal::ctrl_c().await;
            })
            .await;
        policy.join().map_err(|_| "the policy panicked")?;
        Ok(())
    })
}

/// Once a second, sends away every client that published more than it may. Ends with the gateway.
fn keep_the_peace(watch: &Watch, kicks: &KickHandle) {
    let mut before: HashMap<ClientId, u64> = HashMap::new();
    while let Some(clients) = watch.clients() {
        for client in clients.iter() {
            let known = before.get(&client.client).copied().unwrap_or(0);
            // Less than before: it has connected again, and counts from there.
            let lately = client.messages.checked_sub(known).unwrap_or(client.messages);
            if lately > RATE_MAX {
                send_away(kicks, &client.client);
            }
        }
        before = (clients.iter())
            .map(|client| (client.client.clone(), client.messages))
            .collect();
        thread::sleep(Duration::from_secs(1));
    }
}

fn send_away(kicks: &KickHandle, client: &ClientId) {
    let options = KickOptions {
        reason: KickReason::MESSAGE_RATE_TOO_HIGH,
        keep_out: Some(KEEP_OUT),
        ..KickOptions::default()
    };
    let asked = kicks.kick(Target::Client(client.clone()), options);
    match asked.and_then(|ticket| ticket.wait()) {
        Ok(outcome) => println!("{client}: {}, kept out for {KEEP_OUT:?}", outcome.found()),
        Err(KickError::Full) => println!("{client}: too many kicks wait, again in a second"),
        Err(error) => println!("{client}: {error}"),
    }
}

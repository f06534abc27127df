//! More connections than there is room for, held by people who say nothing: somebody honest is in within ten seconds.

mod running;
mod witness;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use running::connect;
use witness::{DOORS, Door, Place, Program, Setup, watched};

/// Descriptors of the program: few, so that a flood is past them soon.
const DESCRIPTORS_MAX: u32 = 64;

/// Sockets of the flood at one door: several times what the program can hold.
const FLOOD: usize = 200;

/// Sockets of a flood that comes back for ever: past the limit too, and so many that everybody in the queue has had
/// his turn well before the promise is due.
const RETURNING: usize = 100;

/// What is promised.
const HONEST_WAIT_MAX: Duration = Duration::from_secs(10);

/// Between two attempts of the honest client, who was refused.
const HONEST_PAUSE: Duration = Duration::from_millis(50);

/// The flood's own patience is longer than the promise: nobody is saved by the time running out for connections that
/// say nothing.
const LIMITS: &str = "connect_timeout = '5m'";

#[test]
fn through_a_flood_past_the_descriptor_limit_an_honest_client_is_in_within_ten_seconds() {
    let setup = Setup {
        limits: LIMITS,
        descriptors_max: Some(DESCRIPTORS_MAX),
        ..Setup::default()
    };
    watched(setup, async |program| {
        for (flooded, neighbour) in DOORS.iter().zip(DOORS.iter().cycle().skip(1)) {
            for opening in [&b""[..], b"\x10\x0e\0\x04MQTT", b"\x16\x03\x01"] {
                let mut flood = Vec::new();
                for _ in 0..FLOOD {
                    let mut stream = program.stream_to(flooded.name).await;
                    // It may be sent away before it has said anything.
                    stream.write_all(&[flooded.header, opening].concat()).await.ok();
                    flood.push(stream);
                }
                for door in [flooded, neighbour] {
                    admit_an_honest_client(program, door).await;
                }
            }
        }
    });
}

#[test]
fn through_a_flood_that_comes_back_as_soon_as_it_is_sent_away_an_honest_client_is_in_within_ten_seconds() {
    let setup = Setup {
        limits: LIMITS,
        descriptors_max: Some(DESCRIPTORS_MAX),
        ..Setup::default()
    };
    watched(setup, async |program| {
        for (flooded, neighbour) in DOORS.iter().zip(DOORS.iter().cycle().skip(1)) {
            let place = program.place(flooded.name);
            let mut flood = JoinSet::new();
            for _ in 0..RETURNING {
                flood.spawn_local(come_back_for_ever(place.clone()));
            }
            for door in [flooded, neighbour] {
                admit_an_honest_client(program, door).await;
            }
            flood.shutdown().await;
        }
    });
}

#[test]
fn while_eighty_slow_clients_hold_a_door_the_next_good_client_is_served() {
    const SLOW: usize = 80;
    let setup = Setup {
        limits: LIMITS,
        ..Setup::default()
    };
    watched(setup, async |program| {
        for held in &DOORS {
            let mut slow = Vec::new();
            for _ in 0..SLOW {
                let mut stream = program.stream_to(held.name).await;
                stream.write_all(&[held.header, b"\x10"].concat()).await.ok();
                slow.push(stream);
            }
            for _ in 0..5 {
                for stream in &mut slow {
                    stream.write_all(b"\x01").await.ok();
                }
                admit_an_honest_client(program, held).await;
            }
        }
    });
}

async fn come_back_for_ever(place: Place) {
    loop {
        if let Ok(mut stream) = place.connect().await {
            // Until it is sent away: nothing is sent to who says nothing.
            let _ = stream.read_u8().await;
        }
        tokio::task::yield_now().await;
    }
}

/// Comes again as long as it is refused, as clients do.
async fn admit_an_honest_client(program: &Program, door: &Door) {
    let attempts = async {
        loop {
            let honest = connect("honest");
            if let Some(mut peer) = program.stranger_at(door, &honest).await
                && peer.try_enter(honest).await
            {
                return peer.ping().await;
            }
            sleep(HONEST_PAUSE).await;
        }
    };
    let is_in = timeout(HONEST_WAIT_MAX, attempts).await.is_ok();
    assert!(is_in, "kept out of the door {} by:\n{}", door.name, program.log());
}

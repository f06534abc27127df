//! What waits beyond a client's queue: in the journal alone, in its order, until its client comes back for it.

mod conversation;

use conversation::*;
use tidegate::broker::{Input, Limits, Output, Overflow, QueueClass, StoreHealth};
use tidegate::mqtt::{Packet, QoS, ReasonCode};

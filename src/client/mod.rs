//! The client side of MQTT. `pub`, `sub`, `bench` and `demo` use it; a bridge is a session of ours whose other end
//! is one of these.
//!
//! - [`options`]: what a client says of itself in CONNECT, and its bounds.
//! - [`session`]: the protocol, without I/O and without a clock.
//! - [`address`], [`dial`]: from `mqtts://host` to a connected byte stream.
//! - [`connection`]: both joined, for whoever wants to `await`.

pub mod address;
pub mod connection;
pub mod dial;
pub mod options;
pub mod session;

pub use address::Address;
pub use connection::{Client, ClientError};
pub use dial::{DialError, Target};
pub use options::{Options, OptionsError};
pub use session::{Connected, Disconnection, Event, Message, Published, Session, Token};

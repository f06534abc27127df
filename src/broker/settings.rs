//! What an operator decides about the protocol, beside limits and rights.

use super::queue_rules::QueueRule;
use crate::mqtt::{ClientId, TopicName, Utf8String};

/// Choices that MQTT leaves to the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Whether a password without a user name is checked, for it may be a token that names the user.
    pub takes_tokens: bool,
    /// Where 5.0 clients are sent that find the gateway full or stopping (section 4.11).
    pub server_reference: Option<Utf8String>,
    /// The topic below which a client that asks for Response Information is given a part of its own (section
    /// 4.10.1).
    pub response_information: Option<TopicName>,
    /// Whether a payload that says it is UTF-8 is looked at, and refused with 0x99 where it is not (section
    /// 3.3.2.3.2).
    pub check_payload_format: bool,
    /// What holds for some queues, or for some messages in them, instead of the limits.
    pub queue_rules: Vec<QueueRule>,
    /// The name of the user property that tells a 5.0 client with its first message after a loss how many it did not
    /// get since it was told last; `None`: it is not told.
    pub loss_property: Option<Utf8String>,
}

impl Settings {
    /// The topic below which `client` is to have its requests answered; `None` where its identifier cannot be a
    /// level of a topic filter.
    pub(super) fn response_information(&self, client: &ClientId) -> Option<Utf8String> {
        let prefix = self.response_information.as_ref()?.as_str().trim_end_matches('/');
        if client.as_str().contains(['/', '+', '#']) {
            return None;
        }
        Utf8String::try_from(format!("{prefix}/{client}").as_str()).ok()
    }
}

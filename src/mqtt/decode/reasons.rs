//! Which reason codes each packet may carry, and from which end (the tables of chapter 3).

use super::{DecodeError, Side};
use crate::mqtt::reason::ReasonCode;

/// A packet that carries reason codes, for the question which ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    ConnAck,
    /// PUBACK and PUBREC, whose tables are the same.
    PubAckOrPubRec,
    /// PUBREL and PUBCOMP, whose tables are the same.
    PubRelOrPubComp,
    SubAck,
    UnsubAck,
    Disconnect,
    Auth,
}

/// Takes `code` as a reason code, if `carrier` may bring it to us on `side`.
pub(super) fn reason(carrier: Carrier, side: Side, code: u8) -> Result<ReasonCode, DecodeError> {
    let allowed = match carrier {
        // Table 3-1 [MQTT-3.2.2-8].
        Carrier::ConnAck => matches!(
            code,
            0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
        ),
        // Tables 3-4 and 3-5 [MQTT-3.4.2-1] [MQTT-3.5.2-1]; only a server knows that nobody subscribed.
        Carrier::PubAckOrPubRec => match code {
            0x10 => side == Side::Client,
            _ => matches!(code, 0x00 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99),
        },
        // Tables 3-6 and 3-7 [MQTT-3.6.2-1] [MQTT-3.7.2-1].
        Carrier::PubRelOrPubComp => matches!(code, 0x00 | 0x92),
        // Table 3-8 [MQTT-3.9.3-2].
        Carrier::SubAck => {
            matches!(
                code,
                0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
            )
        }
        // Table 3-9 [MQTT-3.11.3-2].
        Carrier::UnsubAck => matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
        // Table 3-10, column "Sent by" [MQTT-3.14.2-1]; 0x8C, which it forgets, stands in table 2-6.
        Carrier::Disconnect => match side {
            Side::Server => {
                matches!(code, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
            }
            Side::Client => matches!(
                code,
                0x00 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
            ),
        },
        // Table 3-11, column "Sent by" [MQTT-3.15.2-1].
        Carrier::Auth => match side {
            Side::Server => matches!(code, 0x18 | 0x19),
            Side::Client => matches!(code, 0x00 | 0x18),
        },
    };
    if !allowed {
        return Err(DecodeError::ReasonCodeNotAllowed(code));
    }
    ReasonCode::from_u8(code).ok_or(DecodeError::ReasonCodeNotAllowed(code))
}

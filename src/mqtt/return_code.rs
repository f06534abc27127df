//! The return codes of 3.1 and 3.1.1, to and from the reason codes of 5.0.

use super::reason::ReasonCode;

/// What a CONNACK return code says (3.1.1, table 3.1); `None` for the reserved ones, 6 and above.
pub(super) const fn connack_from_v3(code: u8) -> Option<ReasonCode> {
    Some(match code {
        0 => ReasonCode::Success,
        1 => ReasonCode::UnsupportedProtocolVersion,
        2 => ReasonCode::ClientIdentifierNotValid,
        3 => ReasonCode::ServerUnavailable,
        4 => ReasonCode::BadUserNameOrPassword,
        5 => ReasonCode::NotAuthorized,
        _ => return None,
    })
}

/// The CONNACK return code nearest to `reason`.
pub(super) const fn connack_to_v3(reason: ReasonCode) -> u8 {
    match reason {
        ReasonCode::UnsupportedProtocolVersion => 1,
        ReasonCode::ClientIdentifierNotValid => 2,
        ReasonCode::BadUserNameOrPassword => 4,
        // "You may not": who asks again in the same way gets the same answer.
        ReasonCode::NotAuthorized
        | ReasonCode::Banned
        | ReasonCode::BadAuthenticationMethod
        | ReasonCode::TopicNameInvalid
        | ReasonCode::RetainNotSupported
        | ReasonCode::QosNotSupported
        | ReasonCode::MalformedPacket
        | ReasonCode::ProtocolError
        | ReasonCode::PacketTooLarge
        | ReasonCode::PayloadFormatInvalid => 5,
        reason if reason.is_error() => 3,
        _ => 0,
    }
}

/// What a SUBACK return code says: a granted quality, or 0x80 (3.1.1, section 3.9.3).
pub(super) const fn suback_from_v3(code: u8) -> Option<ReasonCode> {
    Some(match code {
        0 => ReasonCode::Success,
        1 => ReasonCode::GrantedQos1,
        2 => ReasonCode::GrantedQos2,
        0x80 => ReasonCode::UnspecifiedError,
        _ => return None,
    })
}

/// The SUBACK return code for `reason`: 3.1.1 knows one failure.
pub(super) const fn suback_to_v3(reason: ReasonCode) -> u8 {
    match reason {
        ReasonCode::GrantedQos1 => 1,
        ReasonCode::GrantedQos2 => 2,
        reason if reason.is_error() => 0x80,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_return_code_survives_the_way_to_a_reason_code_and_back() {
        for code in 0..=u8::MAX {
            if let Some(reason) = connack_from_v3(code) {
                assert_eq!(connack_to_v3(reason), code);
            }
            if let Some(reason) = suback_from_v3(code) {
                assert_eq!(suback_to_v3(reason), code);
            }
        }
    }

    #[test]
    fn no_failure_becomes_a_success_on_the_way_to_3_1_1() {
        for reason in (0..=u8::MAX).filter_map(ReasonCode::from_u8) {
            if reason.is_error() {
                assert_ne!(connack_to_v3(reason), 0, "{reason}");
                assert_eq!(suback_to_v3(reason), 0x80, "{reason}");
            }
        }
    }
}

//! Reads the property section of each packet (section 2.2.2).

use std::num::{NonZeroU16, NonZeroU32};

use super::reader::Reader;
use super::{DecodeError, Side, USER_PROPERTIES_MAX};
use crate::mqtt::ids::{ClientId, QoS};
use crate::mqtt::properties::{
    AckProperties, AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, SubscribeProperties, UserProperties, WillProperties,
};
use crate::mqtt::property as id;
use crate::mqtt::topic::TopicName;

/// The properties of one packet while they are read.
struct Section<'a> {
    reader: Reader<'a>,
    /// The property whose value comes next.
    identifier: u8,
}

impl<'a> Section<'a> {
    /// Begins the section: its length, which must lie within the packet.
    fn open(packet: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let len = packet.varint()?;
        Ok(Self {
            reader: packet.section(len)?,
            identifier: 0,
        })
    }

    /// The identifier of the next property; `None` at the end of the section.
    fn next(&mut self) -> Result<Option<u8>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let identifier = self.reader.varint()?;
        self.identifier = u8::try_from(identifier).map_err(|_| DecodeError::PropertyUnknown(identifier))?;
        Ok(Some(self.identifier))
    }

    /// The error for a property that the packet at hand does not know.
    fn refused(&self) -> DecodeError {
        if id::is_assigned(self.identifier) {
            DecodeError::PropertyNotAllowed(self.identifier)
        } else {
            DecodeError::PropertyUnknown(u32::from(self.identifier))
        }
    }

    fn out_of_range(&self) -> DecodeError {
        DecodeError::PropertyOutOfRange(self.identifier)
    }

    /// Reads a value into its place, which must still be empty.
    fn once<T>(
        &mut self,
        place: &mut Option<T>,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<(), DecodeError> {
        if place.is_some() {
            return Err(DecodeError::PropertyTwice(self.identifier));
        }
        *place = Some(read(&mut self.reader)?);
        Ok(())
    }

    /// Reads a byte that is 0 or 1.
    fn flag(&mut self, place: &mut Option<bool>) -> Result<(), DecodeError> {
        let out_of_range = self.out_of_range();
        self.once(place, |reader| match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(out_of_range),
        })
    }

    fn nonzero_u16(&mut self, place: &mut Option<u16>) -> Result<(), DecodeError> {
        let out_of_range = self.out_of_range();
        self.once(place, |reader| {
            NonZeroU16::new(reader.u16()?)
                .map(NonZeroU16::get)
                .ok_or(out_of_range)
        })
    }

    fn nonzero_u32(&mut self, place: &mut Option<u32>) -> Result<(), DecodeError> {
        let out_of_range = self.out_of_range();
        self.once(place, |reader| {
            NonZeroU32::new(reader.u32()?)
                .map(NonZeroU32::get)
                .ok_or(out_of_range)
        })
    }

    fn subscription_id(&mut self) -> Result<u32, DecodeError> {
        match self.reader.varint()? {
            0 => Err(self.out_of_range()), // section 3.8.2.1.2
            value => Ok(value),
        }
    }

    fn user_property(&mut self, place: &mut UserProperties) -> Result<(), DecodeError> {
        if place.len() >= USER_PROPERTIES_MAX {
            return Err(DecodeError::TooManyUserProperties);
        }
        place.push(self.reader.string_pair()?);
        Ok(())
    }
}

pub(super) fn connect(packet: &mut Reader<'_>) -> Result<ConnectProperties, DecodeError> {
    let mut properties = ConnectProperties::default();
    let mut section = Section::open(packet)?;
    while let Some(identifier) = section.next()? {
        match identifier {
            id::SESSION_EXPIRY_INTERVAL => section.once(&mut properties.session_expiry_secs, Reader::u32)?,
            // section 3.1.2.11.3
            id::RECEIVE_MAXIMUM => section.nonzero_u16(&mut properties.receive_maximum)?,
            // section 3.1.2.11.4
            id::MAXIMUM_PACKET_SIZE => section.nonzero_u32(&mut properties.packet_bytes_max)?,
            id::TOPIC_ALIAS_MAXIMUM => section.once(&mut properties.topic_alias_maximum, Reader::u16)?,
            id::REQUEST_RESPONSE_INFORMATION => section.flag(&mut properties.request_response_information)?,
            id::REQUEST_PROBLEM_INFORMATION => section.flag(&mut properties.request_problem_information)?,
            id::USER_PROPERTY => section.user_property(&mut properties.user_properties)?,
            id::AUTHENTICATION_METHOD => {
                section.once(&mut properties.authentication_method, Reader::string)?
            }
            id::AUTHENTICATION_DATA => section.once(&mut properties.authentication_data, Reader::binary)?,
            _ => return Err(section.refused()),
        }
    }
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(DecodeError::AuthenticationDataWithoutMethod); // section 3.1.2.11.10
    }
    Ok(properties)
}

pub(super) fn will(packet: &mut Reader<'_>) -> Result<WillProperties, DecodeError> {
    let mut properties = WillProperties::default();
    let mut section = Section::open(packet)?;
    while let Some(identifier) = section.next()? {
        match identifier {
            id::WILL_DELAY_INTERVAL => section.once(&mut properties.delay_secs, Reader::u32)?,
            id::TOPIC_ALIAS | id::SUBSCRIPTION_IDENTIFIER => return Err(section.refused()),
            _ => message(&mut section, &mut properties.publish)?,
        }
    }
    Ok(properties)
}

/// `None` where there are none, so that the usual PUBLISH allocates nothing.
pub(super) fn publish(
    packet: &mut Reader<'_>,
    side: Side,
) -> Result<Option<Box<PublishProperties>>, DecodeError> {
    let mut section = Section::open(packet)?;
    if section.reader.is_empty() {
        return Ok(None);
    }
    let mut properties = Box::<PublishProperties>::default();
    while let Some(identifier) = section.next()? {
        match identifier {
            id::TOPIC_ALIAS => section.once(&mut properties.topic_alias, |reader| {
                match reader.u16()? {
                    0 => Err(DecodeError::TopicAliasZero), // [MQTT-3.3.2-8]
                    alias => Ok(alias),
                }
            })?,
            id::SUBSCRIPTION_IDENTIFIER => {
                if side == Side::Server {
                    return Err(DecodeError::PropertyWrongDirection(identifier)); // [MQTT-3.3.4-6]
                }
                properties.subscription_ids.push(section.subscription_id()?);
            }
            _ => message(&mut section, &mut properties)?,
        }
    }
    Ok(Some(properties))
}

/// Reads one of the properties that PUBLISH and the will share.
fn message(section: &mut Section<'_>, properties: &mut PublishProperties) -> Result<(), DecodeError> {
    match section.identifier {
        id::PAYLOAD_FORMAT_INDICATOR => section.flag(&mut properties.payload_is_utf8),
        id::MESSAGE_EXPIRY_INTERVAL => section.once(&mut properties.message_expiry_secs, Reader::u32),
        // [MQTT-3.3.2-13]
        id::RESPONSE_TOPIC => section.once(&mut properties.response_topic, |reader| {
            TopicName::parse(reader.string()?).map_err(|_| DecodeError::ResponseTopicInvalid) // [MQTT-3.3.2-14]
        }),
        id::CORRELATION_DATA => section.once(&mut properties.correlation_data, Reader::binary),
        id::USER_PROPERTY => section.user_property(&mut properties.user_properties),
        id::CONTENT_TYPE => section.once(&mut properties.content_type, Reader::string), // [MQTT-3.3.2-19]
        _ => Err(section.refused()),
    }
}

pub(super) fn connack(packet: &mut Reader<'_>) -> Result<ConnAckProperties, DecodeError> {
    let mut properties = ConnAckProperties::default();
    let mut section = Section::open(packet)?;
    while let Some(identifier) = section.next()? {
        match identifier {
            id::SESSION_EXPIRY_INTERVAL => section.once(&mut properties.session_expiry_secs, Reader::u32)?,
            id::RECEIVE_MAXIMUM => section.nonzero_u16(&mut properties.receive_maximum)?, // section 3.2.2.3.3
            id::MAXIMUM_QOS => {
                let out_of_range = section.out_of_range();
                section.once(&mut properties.maximum_qos, |reader| match reader.u8()? {
                    0 => Ok(QoS::AtMostOnce),
                    1 => Ok(QoS::AtLeastOnce),
                    _ => Err(out_of_range), // section 3.2.2.3.4
                })?;
            }
            id::RETAIN_AVAILABLE => section.flag(&mut properties.retain_available)?,
            // section 3.2.2.3.6
            id::MAXIMUM_PACKET_SIZE => section.nonzero_u32(&mut properties.packet_bytes_max)?,
            id::ASSIGNED_CLIENT_IDENTIFIER => {
                let out_of_range = section.out_of_range();
                section.once(&mut properties.assigned_client_id, |reader| {
                    ClientId::new(reader.string()?).ok_or(out_of_range) // [MQTT-3.2.2-16]
                })?;
            }
            id::TOPIC_ALIAS_MAXIMUM => section.once(&mut properties.topic_alias_maximum, Reader::u16)?,
            id::REASON_STRING => section.once(&mut properties.reason_string, Reader::string)?,
            id::USER_PROPERTY => section.user_property(&mut properties.user_properties)?,
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => section.flag(&mut properties.wildcard_available)?,
            id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => {
                section.flag(&mut properties.subscription_ids_available)?
            }
            id::SHARED_SUBSCRIPTION_AVAILABLE => section.flag(&mut properties.shared_available)?,
            id::SERVER_KEEP_ALIVE => section.once(&mut properties.server_keep_alive_secs, Reader::u16)?,
            id::RESPONSE_INFORMATION => section.once(&mut properties.response_information, Reader::string)?,
            id::SERVER_REFERENCE => section.once(&mut properties.server_reference, Reader::string)?,
            id::AUTHENTICATION_METHOD => {
                section.once(&mut properties.authentication_method, Reader::string)?
            }
            id::AUTHENTICATION_DATA => section.once(&mut properties.authentication_data, Reader::binary)?,
            _ => return Err(section.refused()),
        }
    }
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(DecodeError::AuthenticationDataWithoutMethod); // section 3.2.2.3.17
    }
    Ok(properties)
}

/// `None` where there are none, so that the usual acknowledgement allocates nothing.
pub(super) fn ack(packet: &mut Reader<'_>) -> Result<Option<Box<AckProperties>>, DecodeError> {
    let mut section = Section::open(packet)?;
    if section.reader.is_empty() {
        return Ok(None);
    }
    let mut properties = Box::<AckProperties>::default();
    while let Some(identifier) = section.next()? {
        match identifier {
            id::REASON_STRING => section.once(&mut properties.reason_string, Reader::string)?,
            id::USER_PROPERTY => section.user_property(&mut properties.user_properties)?,
            _ => return Err(section.refused()),
        }
    }
    Ok(Some(properties))
}

pub(super) fn subscribe(packet: &mut Reader<'_>) -> Result<SubscribeProperties, DecodeError> {
    let mut properties = SubscribeProperties::default();
    let mut section = Section::open(packet)?;
    while let Some(identifier) = section.next()? {
        match identifier {
            id::SUBSCRIPTION_IDENTIFIER if properties.subscription_id.is_some() => {
                return Err(DecodeError::PropertyTwice(identifier)); // section 3.8.2.1.2
            }
            id::SUBSCRIPTION_IDENTIFIER => properties.subscription_id = Some(section.subscription_id()?),
            id::USER_PROPERTY => section.user_property(&mut properties.user_properties)?,
            _ => return Err(section.refused()),
        }
    }
    Ok(properties)
}

pub(super) fn unsubscribe(packet: &mut Reader<'_>) -> Result<UserProperties, DecodeError> {
    let mut properties = UserProperties::new();
    let mut section = Section::open(packet)?;
    while let Some(identifier) = section.next()? {
        match identifier {
            id::USER_PROPERTY => section.user_property(&mut properties)?,
            _ => return Err(section.refused()),
        }
    }
    Ok(properties)
}

pub(super) fn disconnect(packet: &mut Reader<'_>, side: Side) -> Result<DisconnectProperties, DecodeError> {
    let mut properties = DisconnectProperties::default();
    let mut section = Section::open(packet)?;
    while let Some(identifier) = section.next()? {
        match (identifier, side) {
            (id::SESSION_EXPIRY_INTERVAL, Side::Server) => {
                section.once(&mut properties.session_expiry_secs, Reader::u32)?;
            }
            (id::SERVER_REFERENCE, Side::Client) => {
                section.once(&mut properties.server_reference, Reader::string)?;
            }
            (id::SESSION_EXPIRY_INTERVAL | id::SERVER_REFERENCE, _) => {
                // [MQTT-3.14.2-2], section 3.14.2.2.5
                return Err(DecodeError::PropertyWrongDirection(identifier));
            }
            (id::REASON_STRING, _) => section.once(&mut properties.reason_string, Reader::string)?,
            (id::USER_PROPERTY, _) => section.user_property(&mut properties.user_properties)?,
            _ => return Err(section.refused()),
        }
    }
    Ok(properties)
}

pub(super) fn auth(packet: &mut Reader<'_>) -> Result<AuthProperties, DecodeError> {
    let mut properties = AuthProperties::default();
    let mut section = Section::open(packet)?;
    while let Some(identifier) = section.next()? {
        match identifier {
            id::AUTHENTICATION_METHOD => {
                section.once(&mut properties.authentication_method, Reader::string)?
            }
            id::AUTHENTICATION_DATA => section.once(&mut properties.authentication_data, Reader::binary)?,
            id::REASON_STRING => section.once(&mut properties.reason_string, Reader::string)?,
            id::USER_PROPERTY => section.user_property(&mut properties.user_properties)?,
            _ => return Err(section.refused()),
        }
    }
    if properties.authentication_method.is_none() {
        return Err(DecodeError::AuthenticationMethodMissing); // section 3.15.2.2.2
    }
    Ok(properties)
}

//! Field sensors on serial lines: bytes become readings, readings become messages for the broker.
//!
//! # Layout
//! - `settings`: everything about one port; `line`: `9600 8N1`; `template`: names and topics.
//! - `lines`: sensors that send lines of text.
//! - `device`, `points`: who speaks, and what a value is worth.
//! - `status`: online, offline, and the counters.

mod device;
mod line;
mod lines;
mod points;
mod settings;
mod status;
mod template;

pub use device::DeviceSettings;
pub use line::{LineError, LineSettings};
pub use lines::{
    Delimiter, Format, Framing, JsonPath, LinePoint, LinesError, LinesSettings, Pattern, Place, Separators,
};
pub use points::{PayloadForm, PointKind, PointSettings, Scaling, ScalingError};
pub use settings::{DecoderSettings, PortSettings, ReopenSettings, SettingsError};
pub use status::StatusTopics;
pub use template::{Name, NameError, Names, TemplateError, TopicTemplate};

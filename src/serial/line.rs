//! Line settings in the short form people know: `9600 8N1`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serialport::{DataBits, FlowControl, Parity, StopBits};

/// How a serial line is driven; written `BAUD BITS-PARITY-STOP [FLOW]`, as in `9600 8N1` or `115200 7E2 rtscts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineSettings {
    baud: u32,
    data_bits: DataBits,
    parity: Parity,
    stop_bits: StopBits,
    flow: FlowControl,
}

/// Why text is no line setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineError {
    /// No words, or more than three.
    WordCount(usize),
    /// The first word is no number in the range of [`LineSettings::BAUD_MIN`] to [`LineSettings::BAUD_MAX`].
    Baud(String),
    /// The second word is not data bits, parity and stop bits.
    Character(String),
    /// The third word is no flow control.
    Flow(String),
}

impl LineSettings {
    /// The slowest line, in baud: the slowest rate termios names.
    pub const BAUD_MIN: u32 = 50;
    /// The fastest line, in baud: the fastest rate termios names.
    pub const BAUD_MAX: u32 = 4_000_000;

    /// The speed in baud.
    pub fn baud(&self) -> u32 {
        self.baud
    }

    /// The data bits of a character, 5 to 8.
    pub fn data_bits(&self) -> DataBits {
        self.data_bits
    }

    /// The parity bit; [`Parity::None`] where there is none.
    pub fn parity(&self) -> Parity {
        self.parity
    }

    /// The stop bits of a character, 1 or 2.
    pub fn stop_bits(&self) -> StopBits {
        self.stop_bits
    }

    /// Who may hold up whom, and by which means.
    pub fn flow(&self) -> FlowControl {
        self.flow
    }

    /// How long one character takes on the wire, start bit included.
    pub fn character_time(&self) -> Duration {
        let parity_bits = u32::from(self.parity != Parity::None);
        let bits =
            1 + u32::from(u8::from(self.data_bits)) + parity_bits + u32::from(u8::from(self.stop_bits));
        Duration::from_secs(1) * bits / self.baud
    }
}

impl Default for LineSettings {
    /// `9600 8N1`, which most sensors speak.
    fn default() -> Self {
        Self {
            baud: 9600,
            data_bits: DataBits::Eight,
            parity: Parity::None,
            stop_bits: StopBits::One,
            flow: FlowControl::None,
        }
    }
}

impl FromStr for LineSettings {
    type Err = LineError;

    fn from_str(text: &str) -> Result<Self, LineError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (baud, character, flow) = match words.as_slice() {
            [baud] => (*baud, "8N1", "none"),
            [baud, character] => (*baud, *character, "none"),
            [baud, character, flow] => (*baud, *character, *flow),
            _ => return Err(LineError::WordCount(words.len())),
        };
        let speed = baud
            .parse()
            .ok()
            .filter(|speed| (Self::BAUD_MIN..=Self::BAUD_MAX).contains(speed));
        let (data_bits, parity, stop_bits) =
            parse_character(character).ok_or_else(|| LineError::Character(character.to_owned()))?;
        Ok(Self {
            baud: speed.ok_or_else(|| LineError::Baud(baud.to_owned()))?,
            data_bits,
            parity,
            stop_bits,
            flow: match flow {
                "none" => FlowControl::None,
                "rtscts" => FlowControl::Hardware,
                "xonxoff" => FlowControl::Software,
                _ => return Err(LineError::Flow(flow.to_owned())),
            },
        })
    }
}

fn parse_character(text: &str) -> Option<(DataBits, Parity, StopBits)> {
    let [data_bits, parity, stop_bits] = text.as_bytes() else {
        return None;
    };
    let data_bits = match data_bits {
        b'5' => DataBits::Five,
        b'6' => DataBits::Six,
        b'7' => DataBits::Seven,
        b'8' => DataBits::Eight,
        _ => return None,
    };
    let parity = match parity {
        b'N' | b'n' => Parity::None,
        b'E' | b'e' => Parity::Even,
        b'O' | b'o' => Parity::Odd,
        _ => return None,
    };
    let stop_bits = match stop_bits {
        b'1' => StopBits::One,
        b'2' => StopBits::Two,
        _ => return None,
    };
    Some((data_bits, parity, stop_bits))
}

impl fmt::Display for LineSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(
            f,
            "{} {}{parity}{}",
            self.baud,
            u8::from(self.data_bits),
            u8::from(self.stop_bits)
        )?;
        f.write_str(match self.flow {
            FlowControl::None => "",
            FlowControl::Hardware => " rtscts",
            FlowControl::Software => " xonxoff",
        })
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WordCount(found) => write!(
                f,
                "{found} words, expected baud, character and maybe flow control, such as \"9600 8N1\" or \
                 \"115200 8N1 rtscts\""
            ),
            Self::Baud(found) => write!(
                f,
                "speed {found:?}, expected a number of baud from {} to {}, such as 9600",
                LineSettings::BAUD_MIN,
                LineSettings::BAUD_MAX
            ),
            Self::Character(found) => write!(
                f,
                "character {found:?}, expected data bits (5 to 8), parity (N, E or O) and stop bits (1 or 2), \
                 such as 8N1 or 7E1"
            ),
            Self::Flow(found) => write!(f, "flow control {found:?}, expected none, rtscts or xonxoff"),
        }
    }
}

impl std::error::Error for LineError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_read_and_shown_alike() {
        for (text, shown) in [
            ("9600 8N1", "9600 8N1"),
            ("9600", "9600 8N1"),
            ("  2400\t8e1 ", "2400 8E1"),
            ("300 7O2 none", "300 7O2"),
            ("115200 8N1 rtscts", "115200 8N1 rtscts"),
            ("250000 5n2 xonxoff", "250000 5N2 xonxoff"),
        ] {
            let line: LineSettings = text.parse().unwrap();
            assert_eq!(line.to_string(), shown);
            assert_eq!(shown.parse(), Ok(line));
        }
        assert_eq!("9600 8N1".parse(), Ok(LineSettings::default()));
    }

    #[test]
    fn what_no_line_can_do_is_refused_by_its_word() {
        for (text, error) in [
            ("", LineError::WordCount(0)),
            ("9600 8N1 none x", LineError::WordCount(4)),
            ("fast 8N1", LineError::Baud("fast".to_owned())),
            ("0 8N1", LineError::Baud("0".to_owned())),
            ("99999999999 8N1", LineError::Baud("99999999999".to_owned())),
            ("9600 8N", LineError::Character("8N".to_owned())),
            ("9600 9N1", LineError::Character("9N1".to_owned())),
            ("9600 8M1", LineError::Character("8M1".to_owned())),
            ("9600 8N1.5", LineError::Character("8N1.5".to_owned())),
            ("9600 8N1 rts", LineError::Flow("rts".to_owned())),
        ] {
            assert_eq!(text.parse::<LineSettings>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_character_takes_its_bits_over_the_speed() {
        assert_eq!(
            "1000 8N1".parse::<LineSettings>().unwrap().character_time(),
            Duration::from_millis(10)
        );
        assert_eq!(
            "1000 7E2".parse::<LineSettings>().unwrap().character_time(),
            Duration::from_millis(11)
        );
    }
}

//! Which board this is, what it has, what it allows.
//!
//! A profile is data: a short override over `boards/base.toml`. The profiles are compiled in; a file of the same
//! name in a directory takes the place of one, a file of another name adds one.

pub mod journal;
pub mod limits;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use crate::auth::passwords::Cost;
use crate::broker::Limits;
use crate::document::{Document, Key, Mistake, Section, Table};
use crate::storage::JournalSettings;

/// What is known of a board, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Board {
    /// The name of its profile.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// The device-tree strings that name it.
    pub compatible: Vec<String>,
    /// The Rust target its binary is built for.
    pub target: Option<String>,
    /// The memory of its smallest model, in MiB.
    pub ram_mib: u64,
    /// Who ran Tidegate on that metal, on what and when; `None` until somebody did.
    pub verified: Option<String>,
    /// Its storage, for people: `SD card`.
    pub storage: Option<String>,
    /// Its clock, which decides what a certificate's dates are worth after a power cut.
    pub clock: Clock,
    /// Its watchdog.
    pub watchdog: Option<Watchdog>,
    /// Its serial ports that are no USB adapters.
    pub uarts: Vec<Uart>,
    /// What people who use it should know.
    pub notes: Vec<String>,
    /// What one password check may cost.
    pub password_cost: Cost,
    /// How state is kept.
    pub journal: JournalSettings,
    /// What peers may grow.
    pub limits: Limits,
}

/// A clock that runs while the power is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// There is none: the board starts in 1970, or where it was stopped.
    None,
    /// There is one, but no battery on the board.
    BatteryMissing,
    /// There is one, and it is fed.
    Battery,
}

/// A hardware watchdog, as the kernel drives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    /// The kernel's driver.
    pub driver: String,
    /// The longest time the hardware waits.
    pub hardware_max: Option<Duration>,
    /// Whether it can be stopped once started.
    pub stoppable: bool,
}

/// A serial port of the board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uart {
    /// Its name on the board.
    pub name: String,
    /// Its device.
    pub device: PathBuf,
    /// Links that lead to it on a fresh system.
    pub links: Vec<PathBuf>,
    /// Its hardware: `pl011`, `mini`, `8250`, `imx`.
    pub kind: String,
    /// Whether it can send and check parity.
    pub parity: bool,
    /// What uses it on a fresh system.
    pub used_by: Option<String>,
    /// The steps that make it free for a sensor.
    pub free: Vec<String>,
}

/// Every profile there is.
#[derive(Debug, Clone)]
pub struct Boards {
    boards: BTreeMap<String, Board>,
}

/// Where profiles of the machine's owner are looked for.
pub const DIRECTORY: &str = "/etc/tidegate/boards";

/// The profile of every board nothing is known of.
pub const BASE: &str = "base";

/// Where Linux says which board it runs on.
pub const COMPATIBLE: &str = "/proc/device-tree/compatible";

const COMPILED_IN: [(&str, &str); 7] = [
    (BASE, include_str!("../boards/base.toml")),
    (
        "beaglebone-black",
        include_str!("../boards/beaglebone-black.toml"),
    ),
    ("imx6ull", include_str!("../boards/imx6ull.toml")),
    ("pi-3b", include_str!("../boards/pi-3b.toml")),
    ("pi-4b", include_str!("../boards/pi-4b.toml")),
    ("pi-5", include_str!("../boards/pi-5.toml")),
    ("pi-zero-w", include_str!("../boards/pi-zero-w.toml")),
];

impl Boards {
    /// The profiles compiled in.
    pub fn compiled_in() -> Self {
        let sources = COMPILED_IN.map(|(name, text)| (name.to_owned(), source(name, text)));
        Self::from_sources(sources.into()).expect("tests/boards.rs reads every profile compiled in")
    }

    /// The profiles compiled in with those of `directory` over them; `None` looks into [`DIRECTORY`], which need
    /// not exist.
    ///
    /// # Errors
    /// Every mistake in every profile, and a directory that cannot be read.
    pub fn load(directory: Option<&Path>) -> Result<Self, Vec<Mistake>> {
        let mut sources: BTreeMap<String, (PathBuf, String)> = COMPILED_IN
            .map(|(name, text)| (name.to_owned(), source(name, text)))
            .into();
        let folder = directory.unwrap_or(Path::new(DIRECTORY));
        match profiles_of(folder) {
            Ok(found) => sources.extend(found),
            // Nobody asked for it, and it is not there, or in a folder that is none of this user's business: whoever
            // runs with the configuration beside it can look into that one.
            Err(_) if directory.is_none() && fs::metadata(folder).is_err() => {}
            Err((path, error)) => {
                let message = format!("cannot be read: {error}; expected a folder of NAME.toml files");
                let key = String::new();
                return Err(vec![Mistake {
                    file: path,
                    line: 0,
                    column: 0,
                    key,
                    message,
                }]);
            }
        }
        Self::from_sources(sources)
    }

    fn from_sources(mut sources: BTreeMap<String, (PathBuf, String)>) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let (base_file, base_text) = sources.remove(BASE).unwrap_or_else(|| source(BASE, ""));
        let base = Board::read(BASE, Board::blank(), &base_file, &base_text, &mut mistakes);
        let mut boards = BTreeMap::new();
        for (name, (file, text)) in sources {
            let board = Board::read(&name, base.clone(), &file, &text, &mut mistakes);
            boards.insert(name, board);
        }
        boards.insert(BASE.to_owned(), base);
        if mistakes.is_empty() {
            Ok(Self { boards })
        } else {
            Err(mistakes)
        }
    }

    /// The profile of that name.
    pub fn get(&self, name: &str) -> Option<&Board> {
        self.boards.get(name)
    }

    /// Every profile, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Board> {
        self.boards.values()
    }

    /// The board `compatible` names: the NUL-separated list of [`COMPATIBLE`], most telling name first.
    ///
    /// [`Boards::base`] for what is in no profile.
    pub fn detect(&self, compatible: &[u8]) -> &Board {
        let names = compatible
            .split(|byte| *byte == 0)
            .filter_map(|name| str::from_utf8(name).ok());
        let mut known = names.filter_map(|name| {
            self.boards
                .values()
                .find(|board| board.compatible.iter().any(|known| known == name))
        });
        known.next().unwrap_or_else(|| self.base())
    }

    /// The board this is, by [`COMPATIBLE`]; [`Boards::base`] where there is no such file, as on a PC.
    pub fn detect_here(&self) -> &Board {
        self.detect(&fs::read(COMPATIBLE).unwrap_or_default())
    }

    /// The profile of every board nothing is known of.
    pub fn base(&self) -> &Board {
        self.boards.get(BASE).expect("from_sources puts the base in")
    }
}

impl Board {
    /// The UART of the board that `path` names, by its device or by a link to it.
    pub fn uart(&self, path: &Path) -> Option<&Uart> {
        let by_device = self.uarts.iter().find(|uart| uart.device == path);
        by_device.or_else(|| {
            self.uarts
                .iter()
                .find(|uart| uart.links.iter().any(|link| link == path))
        })
    }

    /// The most that `memory_bytes_max` may be on it.
    pub fn memory_bytes_fitting(&self) -> u64 {
        limits::memory_bytes_fitting(self.ram_mib, self.password_cost.memory_kib())
    }

    /// What the base is written over.
    fn blank() -> Self {
        Self {
            name: String::new(),
            title: String::new(),
            compatible: Vec::new(),
            target: None,
            ram_mib: 512,
            verified: None,
            storage: None,
            clock: Clock::None,
            watchdog: None,
            uarts: Vec::new(),
            notes: Vec::new(),
            password_cost: Cost::default(),
            journal: JournalSettings::default(),
            limits: Limits::default(),
        }
    }

    /// `over` with what `text` says instead.
    fn read(name: &str, over: Self, file: &Path, text: &str, mistakes: &mut Vec<Mistake>) -> Self {
        let document = Document::parse(file, text, SECTIONS);
        let mut board = Self {
            name: name.to_owned(),
            ..over
        };
        board.take(&document.root(&BOARD));
        mistakes.extend(document.into_mistakes());
        board
    }

    fn take(&mut self, root: &Table<'_>) {
        let texts = |table: &Table<'_>, key: &str| -> Option<Vec<String>> {
            Some(
                table
                    .texts(key)?
                    .into_iter()
                    .map(|(text, _)| text.to_owned())
                    .collect(),
            )
        };
        let text = |table: &Table<'_>, key: &str| table.text(key).map(str::to_owned);

        set(&mut self.title, text(root, "title"));
        set(&mut self.compatible, texts(root, "compatible"));
        self.target = text(root, "target").or(self.target.take());
        set(&mut self.ram_mib, root.integer("ram_mib", 16..=1024 * 1024));
        self.take_verified(root);
        self.storage = text(root, "storage").or(self.storage.take());
        let clocks = [
            ("none", Clock::None),
            ("battery-missing", Clock::BatteryMissing),
            ("battery", Clock::Battery),
        ];
        set(&mut self.clock, root.choice("clock", &clocks));
        set(&mut self.notes, texts(root, "notes"));

        if let Some(table) = root.table("watchdog", &WATCHDOG) {
            let driver = text(&table, "driver");
            if !table.has("driver") {
                table.missing("driver");
            }
            let hardware_max =
                table.duration("hardware_max", Duration::from_secs(1)..=Duration::from_secs(3600));
            let stoppable = table.flag("stoppable").unwrap_or(true);
            self.watchdog = driver.map(|driver| Watchdog {
                driver,
                hardware_max,
                stoppable,
            });
        }
        if root.has("uart") {
            self.uarts = root.tables("uart", &UART).iter().filter_map(Uart::read).collect();
        }
        if let Some(table) = root.table("password", &PASSWORD) {
            let cost = self.password_cost;
            let memory_kib = u64::from(Cost::MEMORY_KIB_MIN)..=u64::from(Cost::MEMORY_KIB_MAX);
            let memory = table.size("memory", memory_kib.start() * 1024..=memory_kib.end() * 1024);
            let memory_kib = memory.and_then(|bytes| u32::try_from(bytes / 1024).ok());
            let passes = table.integer("passes", 1..=Cost::PASSES_MAX.into());
            let passes = passes.and_then(|passes| u32::try_from(passes).ok());
            let cost = Cost::new(
                memory_kib.unwrap_or(cost.memory_kib()),
                passes.unwrap_or(cost.passes()),
            );
            set(&mut self.password_cost, cost);
        }
        if let Some(table) = root.table("journal", &journal::SECTION) {
            journal::read(&table, &mut self.journal);
        }
        let table = root.table("limits", &limits::SECTION);
        if let Some(table) = &table {
            limits::read(table, &mut self.limits);
        }
        let misfits = self.misfits();
        let is_told = table.is_some_and(|table| limits::tell_misfits(&table, misfits.clone()));
        // What does not fit may be what the base says.
        if let Some((_, message)) = misfits.into_iter().next().filter(|_| !is_told) {
            root.mistake(if root.has("ram_mib") { "ram_mib" } else { "limits" }, message);
        }
    }

    /// What in its limits does not fit into its memory; see [`limits::misfits`].
    pub fn misfits(&self) -> Vec<(Vec<&'static str>, String)> {
        limits::misfits(&self.limits, self.ram_mib, self.password_cost.memory_kib())
    }

    fn take_verified(&mut self, root: &Table<'_>) {
        // It belongs to one board, and is never inherited.
        self.verified = None;
        match root.value("verified").map(|value| value.get_ref()) {
            None | Some(DeValue::Boolean(false)) => {}
            Some(DeValue::String(by)) if !by.is_empty() => self.verified = Some(by.to_string()),
            Some(_) => root.mistake(
                "verified",
                "expected false, or who ran it on that board, on which system and when, as a string",
            ),
        }
    }
}

impl Uart {
    fn read(table: &Table<'_>) -> Option<Self> {
        let texts = |key: &str| -> Vec<&str> {
            table
                .texts(key)
                .unwrap_or_default()
                .into_iter()
                .map(|(text, _)| text)
                .collect()
        };
        for key in ["name", "device", "kind", "parity"] {
            if !table.has(key) {
                table.missing(key);
            }
        }
        // Each is read before any is missed, so that every mistake is told.
        let (name, device) = (table.text("name"), table.text("device"));
        let (kind, parity) = (table.text("kind"), table.flag("parity"));
        Some(Self {
            name: name?.to_owned(),
            device: PathBuf::from(device?),
            links: texts("links").into_iter().map(PathBuf::from).collect(),
            kind: kind?.to_owned(),
            parity: parity?,
            used_by: table.text("used_by").map(str::to_owned),
            free: texts("free").into_iter().map(str::to_owned).collect(),
        })
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// A profile compiled in, with the name its mistakes are told under.
fn source(name: &str, text: &str) -> (PathBuf, String) {
    (PathBuf::from(format!("boards/{name}.toml")), text.to_owned())
}

/// The `NAME.toml` files of a folder: name, path, text.
fn profiles_of(folder: &Path) -> Result<BTreeMap<String, (PathBuf, String)>, (PathBuf, io::Error)> {
    let at_folder = |error| (folder.to_owned(), error);
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(at_folder)? {
        let path = entry.map_err(at_folder)?.path();
        let is_toml = path.extension().is_some_and(|extension| extension == "toml");
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if is_toml {
            let text = fs::read_to_string(&path).map_err(|error| (path.clone(), error))?;
            found.insert(name.to_owned(), (path.clone(), text));
        }
    }
    Ok(found)
}

/// The tables of a profile.
pub static SECTIONS: &[&Section] = &[
    &BOARD,
    &WATCHDOG,
    &UART,
    &PASSWORD,
    &journal::SECTION,
    &limits::SECTION,
];

static BOARD: Section = Section {
    name: "",
    about: "A board profile.",
    keys: &[
        Key {
            name: "title",
            expects: "a name",
            default: "",
            about: "What people call the board.",
        },
        Key {
            name: "compatible",
            expects: "a list of device-tree names such as \"raspberrypi,4-model-b\"",
            default: "",
            about: "The names by which the board is detected.",
        },
        Key {
            name: "target",
            expects: "a Rust target such as \"aarch64-unknown-linux-musl\"",
            default: "",
            about: "What its binary is built for.",
        },
        Key {
            name: "ram_mib",
            expects: "an integer",
            default: "",
            about: "The memory of its smallest model, in MiB.",
        },
        Key {
            name: "verified",
            expects: "false, or who ran it on that board, on which system and when",
            default: "false",
            about: "Whether somebody ran Tidegate on that metal.",
        },
        Key {
            name: "storage",
            expects: "a text",
            default: "",
            about: "What its file system is on.",
        },
        Key {
            name: "clock",
            expects: "\"none\", \"battery-missing\" or \"battery\"",
            default: "\"none\"",
            about: "Whether a clock runs while the power is off.",
        },
        Key {
            name: "notes",
            expects: "a list of texts",
            default: "",
            about: "What users should know.",
        },
        Key {
            name: "watchdog",
            expects: "a table",
            default: "",
            about: "Its hardware watchdog.",
        },
        Key {
            name: "uart",
            expects: "tables such as [[uart]]",
            default: "",
            about: "Its serial ports.",
        },
        Key {
            name: "password",
            expects: "a table",
            default: "",
            about: "What a password check costs.",
        },
        Key {
            name: "journal",
            expects: "a table",
            default: "",
            about: "How state is kept.",
        },
        Key {
            name: "limits",
            expects: "a table",
            default: "",
            about: "What peers may grow.",
        },
    ],
};

static WATCHDOG: Section = Section {
    name: "watchdog",
    about: "The hardware watchdog.",
    keys: &[
        Key {
            name: "driver",
            expects: "a kernel driver",
            default: "",
            about: "The kernel's driver.",
        },
        Key {
            name: "hardware_max",
            expects: "a duration such as \"15s\"",
            default: "",
            about: "The longest time the hardware waits.",
        },
        Key {
            name: "stoppable",
            expects: "true or false",
            default: "true",
            about: "Whether it can be stopped once started.",
        },
    ],
};

static UART: Section = Section {
    name: "uart",
    about: "A serial port of the board.",
    keys: &[
        Key {
            name: "name",
            expects: "a name",
            default: "",
            about: "Its name on the board.",
        },
        Key {
            name: "device",
            expects: "a path such as \"/dev/ttyS0\"",
            default: "",
            about: "Its device.",
        },
        Key {
            name: "links",
            expects: "a list of paths",
            default: "",
            about: "Links that lead to it on a fresh system.",
        },
        Key {
            name: "kind",
            expects: "a name such as \"pl011\"",
            default: "",
            about: "Its hardware.",
        },
        Key {
            name: "parity",
            expects: "true or false",
            default: "",
            about: "Whether it knows parity.",
        },
        Key {
            name: "used_by",
            expects: "a text",
            default: "",
            about: "What uses it on a fresh system.",
        },
        Key {
            name: "free",
            expects: "a list of texts",
            default: "",
            about: "The steps that make it free.",
        },
    ],
};

static PASSWORD: Section = Section {
    name: "password",
    about: "What one password check may cost.",
    keys: &[
        Key {
            name: "memory",
            expects: "a size such as \"4 MiB\"",
            default: "",
            about: "The memory one check takes.",
        },
        Key {
            name: "passes",
            expects: "an integer",
            default: "",
            about: "How often it goes over that memory.",
        },
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn boards(files: &[(&str, &str)]) -> Result<Boards, Vec<String>> {
        let sources = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), source(name, text)));
        Boards::from_sources(sources.collect())
            .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_override_changes_what_it_says_and_nothing_else() {
        let base = "title='Any'\nram_mib=512\nverified='me'\n[limits]\nconnections_max=256\nretained_max=7\n";
        let boards = boards(&[
            ("base", base),
            (
                "small",
                "ram_mib=128\n[limits]\nconnections_max=8\nmemory_bytes_max='32 MiB'",
            ),
        ]);
        let boards = boards.expect("right");
        let small = boards.get("small").expect("there");
        assert_eq!((small.title.as_str(), small.ram_mib), ("Any", 128));
        assert_eq!((small.limits.connections_max, small.limits.retained_max), (8, 7));
        assert_eq!(small.verified, None, "nobody ran the small one");
        assert_eq!(boards.base().verified.as_deref(), Some("me"));
    }

    #[test]
    fn detection_takes_the_most_telling_name() {
        let boards = boards(&[
            ("soc", "compatible=['x,soc']"),
            ("board", "compatible=['x,board']"),
        ]);
        let boards = boards.expect("right");
        assert_eq!(boards.detect(b"x,board\0x,soc\0").name, "board");
        assert_eq!(boards.detect(b"x,other\0x,soc\0").name, "soc");
        assert_eq!(boards.detect(b"y\0").name, BASE);
        assert_eq!(boards.detect(b"").name, BASE);
        assert_eq!(boards.detect(b"\xff\0x,soc").name, "soc");
    }

    #[test]
    fn every_mistake_of_every_profile_is_told() {
        let told = boards(&[
            (
                "a",
                "verified = true\n[[uart]]\nname='u'\nkind='k'\nparity='no'\n",
            ),
            ("b", "[limits]\nconections_max = 1\n[password]\nmemory='1 GiB'"),
        ]);
        assert_eq!(
            told.expect_err("wrong"),
            [
                "boards/a.toml:1: verified: expected false, or who ran it on that board, on which system and when, \
                 as a string",
                "boards/a.toml:2: uart.device: missing, expected a path such as \"/dev/ttyS0\"",
                "boards/a.toml:5: uart.parity: found \"no\", expected true or false",
                "boards/b.toml:2: limits.conections_max: unknown key, did you mean \"connections_max\"?",
                "boards/b.toml:4: password.memory: found \"1 GiB\", expected a size from 1 MiB to 64 MiB",
            ]
        );
    }

    #[test]
    fn a_uart_is_found_by_its_device_before_another_ones_link() {
        let text = "[[uart]]\nname='mini'\ndevice='/dev/ttyS0'\nlinks=['/dev/serial0','/dev/ttyAMA0']\n\
                    kind='mini'\nparity=false\n\
                    [[uart]]\nname='pl011'\ndevice='/dev/ttyAMA0'\nkind='pl011'\nparity=true";
        let boards = boards(&[("pi", text)]).expect("right");
        let pi = boards.get("pi").expect("there");
        assert_eq!(
            pi.uart(Path::new("/dev/serial0")).map(|uart| uart.name.as_str()),
            Some("mini")
        );
        assert_eq!(
            pi.uart(Path::new("/dev/ttyAMA0")).map(|uart| uart.name.as_str()),
            Some("pl011")
        );
        assert_eq!(pi.uart(Path::new("/dev/ttyUSB0")), None);
    }
}

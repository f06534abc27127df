//! The board profiles: complete, consistent, and within the memory of the boards.

use std::fs;
use std::path::Path;

use tidegate::auth::passwords::Cost;
use tidegate::board::{BASE, Boards, Clock, journal, limits};
use tidegate::broker::Limits;
use tidegate::storage::JournalSettings;

/// A folder without profiles, so that those of the machine the test runs on stay out.
fn compiled_in() -> Boards {
    let empty = tempfile::tempdir().expect("a temporary folder");
    Boards::load(Some(empty.path())).expect("every profile compiled in is right")
}

#[test]
fn the_profiles_in_the_folder_are_the_profiles_compiled_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("boards");
    let mut in_folder: Vec<String> = fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    in_folder.sort();
    let boards = Boards::compiled_in();
    let known: Vec<&str> = boards.iter().map(|board| board.name.as_str()).collect();
    assert_eq!(known, in_folder);
}

#[test]
fn the_limits_of_the_base_are_the_default_limits() {
    let boards = compiled_in();
    assert_eq!(boards.base().limits, Limits::default());
    assert_eq!(boards.base().journal, JournalSettings::default());
    assert_eq!(boards.base().password_cost, Cost::default());
}

#[test]
fn the_base_names_every_limit_and_how_state_is_kept() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("boards/base.toml")).expect("text");
    let only_relaxed = "sync_interval";
    let keys = limits::SECTION.keys.iter().chain(journal::SECTION.keys);
    for key in keys.filter(|key| key.name != only_relaxed) {
        assert!(
            text.contains(&format!("\n{} = ", key.name)),
            "{} is not in boards/base.toml",
            key.name
        );
    }
}

#[test]
fn every_board_is_detected_by_each_of_its_names() {
    let boards = compiled_in();
    for board in boards.iter().filter(|board| board.name != BASE) {
        assert!(
            !board.compatible.is_empty(),
            "{} has no device-tree name",
            board.name
        );
        for name in &board.compatible {
            let list = format!("vendor,variant-of-it\0{name}\0");
            assert_eq!(boards.detect(list.as_bytes()).name, board.name);
        }
    }
}

#[test]
fn a_real_device_tree_list_finds_its_board() {
    let boards = compiled_in();
    assert_eq!(
        boards.detect(b"raspberrypi,3-model-b\0brcm,bcm2837\0").name,
        "pi-3b"
    );
    assert_eq!(
        boards
            .detect(b"toradex,colibri-imx6ull-eval\0toradex,colibri-imx6ull\0fsl,imx6ull\0")
            .name,
        "imx6ull"
    );
    assert_eq!(boards.detect(b"linux,dummy-virt\0").name, BASE);
}

#[test]
fn what_peers_can_make_it_hold_fits_into_half_of_the_memory() {
    for board in compiled_in().iter() {
        assert_eq!(board.misfits(), [], "{}", board.name);
        let held = u64::try_from(board.limits.memory_bytes_max).expect("a size");
        assert!(held <= board.memory_bytes_fitting(), "{}", board.name);
        assert!(
            board.memory_bytes_fitting() < board.ram_mib * 1024 * 1024 / 2,
            "{}",
            board.name
        );
    }
}

#[test]
fn a_profile_that_does_not_fit_its_memory_is_told_with_key_figure_and_way_out() {
    let told = |text: &str| -> Vec<String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("acme.toml"), text).expect("write");
        let mistakes = Boards::load(Some(folder.path())).expect_err("wrong");
        let told = mistakes
            .iter()
            .map(|mistake| (mistake.line, &mistake.key, &mistake.message));
        told.map(|(line, key, message)| format!("{line}: {key}: {message}"))
            .collect()
    };
    let too_much = "memory_bytes_max is 64 MiB, expected at most 49152 KiB: half of the 128 MiB this board has, less \
                    12 MiB for the program and 4 MiB for a password check; lower it, or write a profile of a board \
                    with more ram_mib";
    assert_eq!(
        told("ram_mib = 128\n[limits]\nmemory_bytes_max = '64 MiB'"),
        [format!("3: limits.memory_bytes_max: {too_much}")]
    );
    // The base's own budget is too much for it.
    let [of_the_base] = &told("title = 'small'\nram_mib = 64")[..] else {
        panic!("one mistake");
    };
    assert!(
        of_the_base.starts_with("2: ram_mib: memory_bytes_max is 128 MiB, expected at most "),
        "{of_the_base}"
    );
    // A million sessions are more than a number.
    let [of_numbers] = &told("ram_mib = 512\n[limits]\nsessions_max = 1000000")[..] else {
        panic!("one mistake");
    };
    assert!(
        of_numbers
            .starts_with("3: limits.sessions_max: memory_bytes_max is 128 MiB, and the numbers alone need "),
        "{of_numbers}"
    );
}

#[test]
fn a_password_check_takes_a_thirtysecond_of_the_memory_at_most() {
    for board in compiled_in().iter() {
        let memory_kib = u64::from(board.password_cost.memory_kib());
        assert!(memory_kib * 32 <= board.ram_mib * 1024, "{}", board.name);
    }
}

#[test]
fn no_limits_of_a_board_contradict_each_other() {
    for board in compiled_in().iter() {
        assert_eq!(limits::contradictions(&board.limits), [], "{}", board.name);
    }
}

#[test]
fn no_board_claims_to_be_verified_before_somebody_ran_it() {
    for board in compiled_in().iter() {
        assert_eq!(board.verified, None, "{}", board.name);
    }
}

#[test]
fn the_mini_uart_of_the_raspberry_pi_has_no_parity() {
    let boards = compiled_in();
    for name in ["pi-zero-w", "pi-3b", "pi-4b"] {
        let board = boards.get(name).expect("there");
        for path in ["/dev/ttyS0", "/dev/serial0"] {
            assert!(
                !board.uart(Path::new(path)).expect("known").parity,
                "{name} {path}"
            );
        }
        assert!(
            board.uart(Path::new("/dev/ttyAMA0")).expect("known").parity,
            "{name}"
        );
    }
}

#[test]
fn a_board_without_battery_is_known_to_forget_the_time() {
    let boards = compiled_in();
    assert_eq!(boards.get("pi-3b").expect("there").clock, Clock::None);
    assert_eq!(boards.get("pi-5").expect("there").clock, Clock::BatteryMissing);
}

#[test]
fn a_profile_in_a_folder_replaces_one_and_another_adds_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(
        folder.path().join("pi-5.toml"),
        "title = 'mine'\ncompatible = ['raspberrypi,5-model-b']",
    )
    .expect("write");
    fs::write(
        folder.path().join("acme.toml"),
        "title = 'acme'\ncompatible = ['acme,7']",
    )
    .expect("write");
    fs::write(folder.path().join("notes.txt"), "not a profile").expect("write");
    let boards = Boards::load(Some(folder.path())).expect("right");
    assert_eq!(boards.get("pi-5").expect("there").title, "mine");
    assert_eq!(
        boards.get("pi-5").expect("there").limits,
        Limits::default(),
        "it stands on the base alone"
    );
    assert_eq!(boards.detect(b"acme,7\0").title, "acme");
    assert!(boards.get("pi-4b").is_some());
    assert!(boards.get("notes").is_none());
}

#[test]
fn a_wrong_profile_in_a_folder_is_told_with_file_and_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("acme.toml");
    fs::write(&file, "\n\n[limits]\nconnections_max = 0\n").expect("write");
    let mistakes = Boards::load(Some(folder.path())).expect_err("wrong");
    let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let expected = "limits.connections_max: found the integer 0, expected an integer from 1 to 65536";
    assert_eq!(told, [format!("{}:4: {expected}", file.display())]);
}

#[test]
fn a_folder_that_was_asked_for_must_be_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("none");
    let mistakes = Boards::load(Some(&missing)).expect_err("missing");
    assert_eq!(mistakes.len(), 1);
    assert!(
        mistakes[0].message.starts_with("cannot be read: "),
        "{}",
        mistakes[0]
    );
}

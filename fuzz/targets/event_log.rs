//! Event logs of every form, replayed to registers that they may reach.
#![no_main]

use countersign_evidence::RegisterState;
use countersign_evidence::event_log::native::Log;
use countersign_evidence::event_log::{media_type, replay};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for form in [media_type::RUNTIME, media_type::CCEL, media_type::DSTACK] {
        let _ = replay(form, data, &[[0; 48]; 4], &RegisterState::default());
    }
    if let Ok(log) = Log::decode(data) {
        // What a guest keeps lands on its own register, in parts as well.
        let register = log.register_after(log.len()).expect("a register after all entries");
        let rtmr = [[0; 48], [0; 48], [0; 48], register];
        let whole = replay(media_type::RUNTIME, data, &rtmr, &RegisterState::default()).expect("its own log");
        assert_eq!(whole.next(), log.len());
        let again = log.record(log.len()).expect("no entries");
        assert_eq!(replay(media_type::RUNTIME, &again, &rtmr, &whole).as_ref(), Ok(&whole));
    }
    if let Ok((log, torn)) = Log::from_entries(data) {
        let entries = log.record(0).expect("all entries");
        assert!(data.len() - torn <= entries.len());
    }
});

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A call that takes this long.
fn call(standing: &Standing, now: Instant, latency: Duration, code: Code) {
    let attempt = Attempt::new(now - latency, true);
    standing.started(&attempt);
    standing.finished(&attempt, now, AttemptEnd::Answered(code));
}

fn start() -> Instant {
    Instant::now() + 3600 * SECOND
}

fn known(latency: Duration, now: Instant) -> Standing {
    let standing = Standing::new(now - SECOND);
    call(&standing, now, latency, Code::Ok);
    standing
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-6
}

/// Every code but OK.
fn errors() -> impl Iterator<Item = Code> {
    (1..=16).map(Code::from_i32)
}

#[test]
fn a_peak_counts_at_once() {
    let now = start();
    let standing = known(MS, now);
    call(&standing, now, 50 * MS, Code::Ok);
    assert!(close(standing.latency(now).unwrap(), 0.050));
}

#[test]
fn it_sinks_by_a_factor_of_e_in_ten_seconds() {
    let now = start();
    let standing = known(100 * MS, now);
    let later = standing.latency(now + DECAY).unwrap();
    assert!(close(later, 0.1 / std::f64::consts::E));
    let floor = standing.latency(now + 100 * DECAY).unwrap();
    assert!(close(floor, 0.001), "never below the floor");
}

#[test]
fn fast_calls_pull_it_down_towards_them() {
    let mut now = start();
    let standing = known(100 * MS, now);
    call(&standing, now, 10 * MS, Code::Ok);
    let latency = standing.latency(now).unwrap();
    assert!(latency > 0.09, "one fast call proves little");
    for _ in 0..600 {
        now += 100 * MS;
        call(&standing, now, 10 * MS, Code::Ok);
    }
    let latency = standing.latency(now).unwrap();
    assert!((0.010..0.0105).contains(&latency), "{latency}");
}

#[test]
fn an_error_is_never_a_good_latency() {
    for code in errors() {
        let now = start();
        let standing = known(20 * MS, now);
        for _ in 0..100 {
            call(&standing, now, Duration::ZERO, code);
        }
        // As the errors of one second, at 20 ms each, would be in flight.
        let load = standing.load(0.02, now);
        assert!((1.9..2.1).contains(&load), "{code}: {load}");
        // The latency stays what it was, or is worse, unless it is to be that of the others.
        let latency = standing.latency(now).unwrap();
        assert!(
            standing.is_erring() && latency >= 0.0199,
            "{code}: {latency}"
        );
    }
}

#[test]
fn failing_every_call_by_its_own_fault_makes_it_suspect_until_it_answers() {
    for code in errors() {
        let now = start();
        let standing = known(20 * MS, now);
        for _ in 0..8 {
            call(&standing, now, Duration::ZERO, code);
        }
        let grave = gravity(code).is_some();
        assert_eq!(standing.is_suspect(now), grave, "{code}");
        call(&standing, now, 20 * MS, Code::NotFound);
        assert!(!standing.is_suspect(now), "{code}");
    }
}

#[test]
fn failures_among_answers_do_not_make_it_suspect() {
    let now = start();
    let standing = known(20 * MS, now);
    for number in 0..1_000 {
        let code = if number % 3 == 0 {
            Code::Ok
        } else {
            Code::Unavailable
        };
        call(&standing, now, MS, code);
        assert!(!standing.is_suspect(now));
    }
}

#[test]
fn silence_makes_it_suspect_as_long_as_a_call_waits_and_then_until_it_answers() {
    let now = start();
    let standing = known(MS, now);
    let idle = now + 60 * SECOND;
    let attempt = Attempt::new(idle, true);
    standing.started(&attempt);
    assert!(!standing.is_suspect(idle + 200 * MS));
    assert!(standing.is_suspect(idle + 251 * MS));
    standing.finished(&attempt, idle + 500 * MS, AttemptEnd::Expired);
    assert!(standing.is_suspect(idle + 60 * SECOND));
    call(&standing, idle + 61 * SECOND, 2 * MS, Code::Ok);
    assert!(!standing.is_suspect(idle + 61 * SECOND));
}

#[test]
fn a_slow_service_may_be_silent_for_as_long_as_it_is_slow() {
    let now = start();
    let standing = known(2 * SECOND, now);
    let attempt = Attempt::new(now, true);
    standing.started(&attempt);
    assert!(!standing.is_suspect(now + 3 * SECOND));
    assert!(standing.is_suspect(now + 7 * SECOND));
}

#[test]
fn callers_that_give_up_say_nothing() {
    let now = start();
    let standing = known(10 * MS, now);
    // A watch of five seconds, and a hundred callers that had enough after 5 ms.
    let watch = Attempt::new(now, false);
    standing.started(&watch);
    standing.finished(&watch, now + 5 * SECOND, AttemptEnd::Abandoned);
    for _ in 0..100 {
        let attempt = Attempt::new(now, true);
        standing.started(&attempt);
        standing.finished(&attempt, now + 5 * MS, AttemptEnd::Abandoned);
    }
    assert!(!standing.is_suspect(now + 5 * MS));
    assert!(close(standing.latency(now).unwrap(), 0.010));
    assert!(close(standing.load(0.01, now), 0.0));
}

#[test]
fn the_latency_of_a_stream_is_that_of_its_first_answer() {
    let now = start();
    let standing = known(10 * MS, now);
    let mut stream = Attempt::new(now, false);
    standing.started(&stream);
    standing.answered(&stream, now + 20 * MS);
    stream.answered = true;
    let hour = now + 3600 * SECOND;
    standing.finished(&stream, hour, AttemptEnd::Answered(Code::Ok));
    assert!(close(standing.latency(now + 20 * MS).unwrap(), 0.020));
}

#[test]
fn a_suspect_is_tried_once_a_second_at_most_and_once_in_ten_at_least() {
    for (rate, tries) in [(1u32, 6), (10, 6), (1_000, 60)] {
        let now = start();
        let standing = known(MS, now);
        standing.suspect();
        let turns = 0..rate * 60;
        let times = turns.map(|turn| now + SECOND * turn / rate);
        let tried = times.filter(|now| standing.is_tried(*now, 100)).count();
        assert!((tries - 1..=tries).contains(&tried), "{rate}: {tried}");
    }
}

#[test]
fn what_it_took_to_stand_still_is_no_latency() {
    let now = start();
    let standing = known(2 * MS, now);
    let attempts = [Attempt::new(now, true); 3];
    attempts
        .iter()
        .for_each(|attempt| standing.started(attempt));
    let thawed = now + 10 * SECOND;
    for attempt in &attempts {
        standing.finished(attempt, thawed, AttemptEnd::Answered(Code::Ok));
    }
    assert!(!standing.is_suspect(thawed));
    assert!(standing.latency(thawed).unwrap_or(0.0) < 0.01);
}

#[test]
fn calls_that_a_silence_has_cost_say_nothing_once_it_is_over() {
    let now = start();
    let standing = known(2 * MS, now);
    let attempts = [Attempt::new(now, true); 6];
    attempts
        .iter()
        .for_each(|attempt| standing.started(attempt));
    let thawed = now + 900 * MS;
    let (first, others) = attempts.split_first().unwrap();
    standing.finished(first, thawed, AttemptEnd::Answered(Code::Ok));
    for attempt in others {
        standing.finished(attempt, thawed + 100 * MS, AttemptEnd::Expired);
    }
    assert!(!standing.is_suspect(thawed + 100 * MS));
    assert!(standing.latency(thawed).unwrap_or(0.0) < 0.01);
}

#[test]
fn a_service_that_becomes_slow_is_known_to_be_slow() {
    let mut now = start();
    let standing = known(2 * MS, now);
    for _ in 0..3 {
        now += 600 * MS;
        call(&standing, now, 500 * MS, Code::Ok);
    }
    assert!(standing.latency(now).unwrap() > 0.4);
}

#[test]
fn one_that_has_proven_itself_begins_anew() {
    let now = start();
    let standing = known(10 * MS, now);
    for _ in 0..20 {
        call(&standing, now, Duration::ZERO, Code::Unavailable);
    }
    assert!(standing.is_suspect(now) && standing.latency(now).unwrap() > 0.9);
    let later = now + SECOND;
    call(&standing, later, 12 * MS, Code::Ok);
    assert!(!standing.is_suspect(later));
    assert!(standing.latency(later).is_none_or(|latency| latency < 0.02));
}

#[test]
fn an_attempt_is_overdue_when_nothing_was_heard_since() {
    let now = start();
    let standing = known(MS, now - SECOND);
    let attempt = Attempt::new(now, true);
    standing.started(&attempt);
    let due = |most| standing.overdue_at(&attempt, now, most).unwrap() - now;
    assert_eq!(due(SECOND), SILENCE);
    assert_eq!(due(50 * MS), 50 * MS);
    call(&standing, now + 20 * MS, MS, Code::Ok);
    assert_eq!(due(50 * MS), 70 * MS);
}

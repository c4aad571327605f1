//! Makes a sequence that fails smaller while it fails in the same way. Owns which parts may go; what failing means is
//! the caller's.

use std::time::{Duration, Instant};

use super::sequence::{Form, Sequence};

/// Long enough for sequences whose every failure takes a timeout.
const LIMIT: Duration = Duration::from_secs(60);

/// The smallest sequence found for which `fails` holds.
pub(crate) fn shrink(sequence: &Sequence, mut fails: impl FnMut(&Sequence) -> bool) -> Sequence {
    let deadline = Instant::now() + LIMIT;
    let mut best = sequence.clone();
    loop {
        let before = size(&best);
        let mut attempt = |candidate: Sequence, best: &mut Sequence| {
            if Instant::now() < deadline && size(&candidate) < size(best) && fails(&candidate) {
                *best = candidate;
                return true;
            }
            false
        };
        drop_steps(&mut best, &mut attempt);
        drop_commands(&mut best, &mut attempt);
        simplify(&mut best, &mut attempt);
        drop_args(&mut best, &mut attempt);
        if size(&best) == before || Instant::now() > deadline {
            return best;
        }
    }
}

type Attempt<'a> = dyn FnMut(Sequence, &mut Sequence) -> bool + 'a;

/// What counts as small, the most important first.
fn size(sequence: &Sequence) -> (usize, usize, usize, usize) {
    let commands = || sequence.steps.iter().flat_map(|step| &step.commands);
    let marks = sequence.steps.iter().map(|step| {
        step.cuts.len() + usize::from(step.joined) + usize::from(step.close) + usize::from(step.hangup)
    });
    let forms =
        commands().filter(|command| matches!(command.form, Form::Inline(_) | Form::Sloppy(_))).count();
    let args = commands().map(|command| command.argv.len()).sum();
    (sequence.steps.len(), commands().count(), marks.sum::<usize>() + forms, args)
}

fn drop_steps(best: &mut Sequence, attempt: &mut Attempt<'_>) {
    let mut length = best.steps.len().div_ceil(2);
    while length > 0 {
        let mut at = 0;
        while at < best.steps.len() {
            let mut candidate = best.clone();
            candidate.steps.drain(at..(at + length).min(best.steps.len()));
            if !attempt(candidate, best) {
                at += length;
            }
        }
        length /= 2;
    }
}

fn drop_commands(best: &mut Sequence, attempt: &mut Attempt<'_>) {
    for step in (0..best.steps.len()).rev() {
        let mut length = best.steps[step].commands.len().div_ceil(2);
        while length > 0 {
            let mut at = 0;
            while at < best.steps[step].commands.len() {
                let mut candidate = best.clone();
                let commands = &mut candidate.steps[step].commands;
                let mut end = (at + length).min(commands.len());
                while commands.get(end).is_some_and(|next| next.tied) {
                    end += 1;
                }
                commands.drain(at..end);
                let tied = best.steps[step].commands[at].tied;
                if tied || candidate.steps[step].commands.is_empty() || !attempt(candidate, best) {
                    at += length;
                }
            }
            length /= 2;
        }
    }
}

fn simplify(best: &mut Sequence, attempt: &mut Attempt<'_>) {
    for step in 0..best.steps.len() {
        for change in 0..4 {
            let mut candidate = best.clone();
            match change {
                0 => candidate.steps[step].cuts.clear(),
                1 => candidate.steps[step].joined = false,
                2 => candidate.steps[step].close = false,
                _ => candidate.steps[step].hangup = false,
            }
            attempt(candidate, best);
        }
        for at in 0..best.steps[step].commands.len() {
            let mut candidate = best.clone();
            let form = &mut candidate.steps[step].commands[at].form;
            if matches!(form, Form::Inline(_) | Form::Sloppy(_)) {
                *form = Form::Resp;
                attempt(candidate, best);
            }
        }
    }
}

fn drop_args(best: &mut Sequence, attempt: &mut Attempt<'_>) {
    for step in 0..best.steps.len() {
        // A flood does not get shorter by its arguments.
        if best.steps[step].commands.len() > 50 {
            continue;
        }
        for at in 0..best.steps[step].commands.len() {
            let commands = &best.steps[step].commands;
            if commands[at].tied || commands.get(at + 1).is_some_and(|next| next.tied) {
                continue;
            }
            for arg in (1..commands[at].argv.len()).rev() {
                let mut candidate = best.clone();
                candidate.steps[step].commands[at].argv.remove(arg);
                attempt(candidate, best);
            }
        }
    }
}

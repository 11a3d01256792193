#!/usr/bin/env bash
# Whether the tests find faults: plants one at a time in a copy of the source and runs the tests, which must fail.
#
#   tests/planted.sh [NAME]...     all of them, or those whose names contain one of these words
#
# Each fault names the tests that catch it. Prints those that did, and ends with 1 if a fault was missed or does not apply any
# more: then the code that it changes has moved on, and so must the fault below. It takes half a minute for each.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR=${PLANTED_TARGET_DIR:-$copy/target} RUST_BACKTRACE=0
wanted=("$@")
missed=0

mkdir "$copy/source"
git ls-files -z --cached --others --exclude-standard | tar -c --null --files-from=- | tar -x -C "$copy/source"

# fault NAME TESTS FILE OLD NEW: OLD, which must be there once, becomes NEW.
fault() {
    local name=$1 tests=$2 file=$3 code=0
    [ "${#wanted[@]}" -eq 0 ] || grep -qF "$(printf '%s\n' "${wanted[@]}")" <<<"$name" || return 0
    local changed=$copy/source/$file
    OLD=$4 NEW=$5 perl -0pi -e '$count = s/\Q$ENV{OLD}\E/$ENV{NEW}/g; END { $? = $count == 1 ? 0 : 1 }' "$changed" || code=$?
    if [ "$code" -eq 0 ]; then
        run_tests "$name" "$tests"
    else
        echo "DOES NOT APPLY  $name: $file"
        missed=$((missed + 1))
    fi
    # Not with the old time: it must be built again.
    cp "$file" "$changed"
}

run_tests() {
    local name=$1 tests=$2 code=0
    # A fault may make a loop endless.
    (cd "$copy/source" && timeout 900 cargo test --test tests "$tests") >"$copy/log" 2>&1 || code=$?
    if [ "$code" -eq 0 ]; then
        echo "MISSED          $name"
        missed=$((missed + 1))
    elif ! grep -q '^test .* FAILED' "$copy/log" && [ "$code" -ne 124 ]; then
        echo "DOES NOT BUILD  $name"
        grep -m 3 -A 5 '^error' "$copy/log" || tail -5 "$copy/log"
        missed=$((missed + 1))
    else
        echo "caught          $name: $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$copy/log" | head -4 | tr '\n' ' ')"
    fi
}

fault "own output overtakes a topic's" simulation::model src/state.rs '
            && self.outbox.logs.is_empty()
            && self.outbox.begin_with_input' '
            && self.outbox.begin_with_input'
fault "the hard limit is one byte too low" simulation::limits src/reactor.rs \
    'if over(limits.output_hard_bytes) &&' \
    'if limits.output_hard_bytes.is_some_and(|limit| pending >= limit) &&'
fault "bytes are not counted when a member takes part again" simulation::model src/state.rs '
            self.outbox.leave_arrears(&mut conn.output);
            self.count(id);' '
            self.outbox.leave_arrears(&mut conn.output);'

fault "reactor: input that rested for output does not go on" simulation::limits src/reactor.rs \
    'again = conn.marks.any(Marks::OFFER_AGAIN | Marks::READABLE);' 'again = false;'
fault "reactor: a freed connection keeps its timer" simulation::limits src/reactor.rs '
            state.timers.cancel(id);' ''
fault "reactor: a closed connection stays counted" simulation::effects src/reactor.rs '
            state.metrics.connections_open -= 1;' ''
fault "reactor: a connection that is looked at keeps its mark for the ready list" simulation::limits src/reactor.rs '
            conn.marks.clear(Marks::QUEUED);' ''
fault "reactor: a listener accepts without end" simulation::limits src/reactor/sources.rs \
    'for _ in 0..self.state.limits.accepts_per_turn {' 'loop {'
fault "reactor: a connection is read without end" simulation::limits src/reactor.rs \
    'budget = budget.saturating_sub(count);
                            end += count;' 'end += count;'
fault "reactor: the end of our side is told before the output is flushed" simulation::effects src/reactor.rs \
    'if pending == 0 {
            let closing' 'if pending < 100 {
            let closing'
fault "state: resuming does not read what has come" simulation::effects src/state.rs '
            && conn.marks.take(Marks::PAUSED)
        {
            self.queue(id);' '
            && conn.marks.take(Marks::PAUSED)
        {'
fault "state: what a killed connection held stays counted" simulation::limits src/state.rs '
        self.memory.recount(&mut conn.counted, 0);
        self.memory.holders.set(id.slot(), id, 0);' '
        self.memory.holders.set(id.slot(), id, 0);'
fault "state: a close forgets what topics brought before it" simulation::model src/state.rs '
    pub fn finish(&mut self, id: ConnId, reason: CloseReason) {
        self.catch_up(id);' '
    pub fn finish(&mut self, id: ConnId, reason: CloseReason) {'
fault "state: a half-close forgets what topics brought before it" simulation::model src/state.rs '
    pub fn half_close(&mut self, id: ConnId) {
        self.catch_up(id);' '
    pub fn half_close(&mut self, id: ConnId) {'
fault "state: a direct write overtakes what waits" simulation::model src/state.rs \
    'bytes.len() >= DIRECT_BYTES_MIN && conn.output.is_empty(&self.outbox)' \
    'bytes.len() >= DIRECT_BYTES_MIN && conn.output.tail_bytes() == 0'
fault "output: a written piece stays" simulation::limits src/output.rs \
    '&& first.bytes().len() <= self.written' '&& first.bytes().len() < self.written'
fault "output: what was written of a shared message is sent again" simulation::model src/output.rs \
    'tail.push_shared(bytes, cut..len, &self.held)' 'tail.push_shared(bytes, 0..len, &self.held)'
fault "output: shared bytes that it refers to are not counted" simulation::model src/output.rs '
            self.shared_bytes += held.whole().memory_bytes();' ''
fault "fan-out: who is in two topics is written to as if in one" simulation::fanout src/topic.rs \
    'self.log != log && !self.has_others' 'self.log != log'
fault "fan-out: a member hears again what it had taken" simulation::model src/output.rs \
    'let part = written..self.logs.bytes(log).len();' 'let part = 0..self.logs.bytes(log).len();'
fault "fan-out: a new member hears what was said before" simulation::model src/topic.rs '
            member.take(log, logs.end(log));
        }' '
        }'
fault "fan-out: small messages are lost for who was set aside" simulation::fanout src/output.rs '
                tail.push(held.bytes());' ''
fault "fan-out: a set-aside member that ends stays so counted" simulation::limits src/topic.rs '
        self.aside -= 1;' ''
fault "datagrams: those that wait lose their bytes" simulation::datagrams src/datagram.rs '
        if self.departures.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to' '
        self.bytes.clear();
        if self.departures.is_empty() {
            self.bytes.shrink_to'
fault "datagrams: one that could not be sent is not counted" simulation::datagrams src/reactor/sources.rs '
                    self.state.metrics.count_drop(DropCause::SendFailed);' ''
fault "datagrams: a socket is received from without end" simulation::datagrams src/reactor/sources.rs '
            budget -= count;' ''
fault "datagrams: nobody tells when there is room to send" simulation::datagrams src/reactor/sources.rs '
            source.write_blocked = false;
            self.state.dirty_sockets.push(token as u32);' '
            source.write_blocked = false;'
fault "timers: a sooner deadline does not move the timer" simulation::limits src/timer.rs '
                self.heap[position as usize] = (at, id);
                position as usize' '
                position as usize'
fault "timers: an entry that sinks is lost" simulation::limits src/timer.rs '
        self.place(position, entry);
    }' '
    }'
fault "timers: who has moved on is not looked at again" simulation::limits src/reactor.rs '
            // It has moved on since the timer was set.
            return self.state.arm_next(id);' '
            return;'
fault "slots: a generation is not raised" simulation::effects src/slots.rs \
    '*generation = generation.checked_add(1).unwrap_or(1);
        let (_, entry)' 'let (_, entry)'
fault "shared: what is held no more stays counted" simulation::limits src/shared.rs '
            self.total.set(self.total.get() - self.whole.memory_bytes());' ''
fault "messages: a turn delivers all there are" simulation::effects src/reactor.rs '
            self.deliver_from(index, self.state.limits.messages_per_turn.max(1));' '
            self.deliver_from(index, usize::MAX);'
fault "memory: one turn closes as many as it likes" simulation::memory src/state.rs \
    'if self.memory.evictions_left == 0 {' 'if false {'
fault "memory: blocks count for next to nothing" simulation::chaos src/memory.rs \
    '_ => (capacity + 8).next_multiple_of(16),' '_ => if capacity > 1 << 40 { capacity } else { 16 },'
fault "panics: the phase that was interrupted begins again" simulation::panics src/reactor/panics.rs \
    'self.deliver_from(interrupted, 0);' 'self.deliver_messages();'
fault "panics: events behind two datagrams that panic are lost" simulation::panics src/reactor/panics.rs '
        if self.in_left_over {
            batch.left = Some(total);
        }
        let left = batch.left;' '
        let left = if self.in_left_over { Some(total) } else { batch.left.take() };'

exit "$((missed > 0))"

package consumer

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
)

// isAnswer reports whether err is the answer of a server that goes on serving the connection:
// what was sent has surely done nothing.
func isAnswer(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && cmp.Or(pgErr.SeverityUnlocalized, pgErr.Severity) == "ERROR"
}

// forget ends the handlers of all partitions, and forgets what is in memory of them, but for
// the positions that the server has confirmed.
func (m *member) forget(cause error) {
	m.lose(slices.Collect(maps.Keys(m.held)))
	m.engine.forget(cause)
	clear(m.drained)
	clear(m.leaving)
}

// lose stops the reading of partitions, and remembers where they were stored.
func (m *member) lose(ps []partition) {
	if len(ps) == 0 {
		return
	}
	m.close(ps)
	stored := m.engine.checkpoints()
	for _, p := range ps {
		row, ok := m.held[p]
		if !ok {
			continue
		}
		row.Position = max(row.Position, stored[p])
		m.before[p] = row
		delete(m.held, p)
		delete(m.drained, p)
	}
}

// close stops the reading of partitions.
func (m *member) close(ps []partition) {
	for category, r := range m.reads {
		r.close(slices.DeleteFunc(slices.Clone(ps), func(p partition) bool { return p.Category != category }))
	}
}

// countRewound counts a checkpoint that is before the position at which the server has
// confirmed it.
func (m *member) countRewound(p partition, confirmed int64) {
	m.counts.rewound.Add(1)
	m.logger.Warn("a checkpoint of a consumer is not where it was stored: messages after it are handled again",
		m.attrs("category", p.Category, "partition", p.Number, "from", confirmed)...)
}

// tickSoon lets a tick follow a failure.
func (m *member) tickSoon(err error) {
	m.ticked = false
	m.fails(err)
	m.nextTick = time.Now().Add(min(tickRetry.Delay(m.failures), m.interval()))
}

// apply begins and ends partitions, so that they are those of the rows. renewed are partitions that were forgotten and whose rows are as the
// member knew them, but for their epochs. Without a doubt, only operators change the epochs of the others that a member has. A partition
// that was forgotten and has the epoch by which the member knew it waits: a statement of this member has locked the row, and may yet park
// something, for example.
func (m *member) apply(held ledger.Held, renewed map[partition]bool, doubtful bool) {
	rows := make(map[partition]ledger.Row, len(held.Rows))
	for _, row := range held.Rows {
		if m.reads[row.Category] != nil {
			rows[row.Partition] = row
		}
	}
	var lost, sought []partition
	for p, known := range m.held {
		if row, ok := rows[p]; !ok {
			lost = append(lost, p)
		} else if row.Epoch != known.Epoch {
			sought = append(sought, p)
		}
	}
	m.lose(slices.Concat(lost, sought))
	for p := range m.engine.checkpoints() { // also those that the fence has stopped, which are not in held
		if _, ok := rows[p]; !ok {
			lost = append(lost, p)
		}
	}
	m.engine.drop(lost, ErrLeaseLost)
	m.engine.drop(sought, errMoved)
	parked := make(map[partition][]ledger.Parked)
	for _, p := range held.Parked {
		parked[p.Partition] = append(parked[p.Partition], p)
	}
	openings := make(map[string][]opening, len(m.reads))
	waiting, moved := make(map[partition]ledger.Row), 0
	for p, row := range rows {
		if from, ok := m.begun[p.Category]; !ok || row.Position < from {
			m.begun[p.Category] = row.Position
		}
		if _, ok := m.held[p]; ok {
			continue
		}
		known, ok := m.before[p]
		if ok && row.Epoch == known.Epoch && !renewed[p] {
			waiting[p] = known
			m.balanceBy(time.Now().Add(m.interval()))
			continue
		}
		if until := m.waits(row); !until.IsZero() {
			waiting[p] = row
			m.balanceBy(until)
			continue
		}
		switch {
		case !ok:
		case !doubtful && !renewed[p]:
			moved++
		case row.Position < known.Position:
			m.countRewound(p, known.Position)
		}
		m.held[p] = row
		m.engine.claim(row, parked[p])
		openings[p.Category] = append(openings[p.Category], opening{p, row.Epoch, m.beginning(&row)})
		if !m.isReleasing(p.Number) {
			delete(m.leaving, p.Number)
		}
	}
	for category, o := range openings {
		m.reads[category].open(o...)
	}
	if moved > 0 {
		m.logger.Info("somebody has moved checkpoints of a consumer: it continues there", m.attrs("checkpoints", moved)...)
	}
	m.before = waiting
	m.counts.partitions.Store(int64(len(numbersOf(m.owned()))))
}

// beginning returns where the reading of a checkpoint's partition begins.
func (m *member) beginning(row *ledger.Row) source.Checkpoint {
	if a := anchorOfRow(row); m.anchored && a.Position > 0 {
		return source.Known([]source.Anchor{a})
	}
	return source.At(row.Position)
}

// owned returns what the member has, as far as it knows, also what it is about to read again.
func (m *member) owned() map[partition]ledger.Row {
	if m.evicted || m.lapsed || len(m.before) == 0 {
		return m.held
	}
	rows := maps.Clone(m.before)
	maps.Copy(rows, m.held)
	return rows
}

// isReleasing reports whether a partition of the number, of whatever category, is stored and waits for the others.
func (m *member) isReleasing(number int) bool {
	for p := range m.drained {
		if p.Number == number {
			return true
		}
	}
	return false
}

// numbersOf returns the numbers of partitions.
func numbersOf(rows map[partition]ledger.Row) map[int]bool {
	numbers := make(map[int]bool)
	for p := range rows {
		numbers[p.Number] = true
	}
	return numbers
}

// balance reads what the member has, claims its share, and begins to give away what is more.
// Rows and what is parked are read together with the share, because the server gives the
// member new epochs for what it has forgotten. It needs no tick before, because it says which history this is, and what
// operators have set.
func (m *member) balance(ctx context.Context) {
	doubtful := m.doubt != nil || m.rejoined
	if m.doubt != nil {
		m.forget(m.doubt)
		m.trust()
	}
	if m.astray {
		m.astray = false
		m.logger.Warn("a consumer can store nothing of a partition although nobody else has moved its checkpoint: new connections are opened", m.attrs()...)
		m.reconnect(true)
	}
	forgotten := slices.Collect(maps.Values(m.before))
	var b ledger.Balance
	var held ledger.Held
	err := m.send(ctx, func(ctx context.Context, p protocol) (err error) {
		b, held, err = p.rebalance(ctx, *m.self.Load(), forgotten)
		return err
	})
	switch {
	case err != nil && slices.Contains([]string{ledger.Gone, ledger.Partitions, ledger.NoConsumer}, codeOf(err)):
		m.nextTick, m.lastBeat = time.Now(), time.Time{} // it says more
		m.balanceBy(time.Now().Add(m.interval()))        // if not
		return
	case err != nil && isAnswer(err):
		m.balanceAt = time.Now().Add(m.reject(err))
		return
	case err != nil:
		m.balanceAt = time.Now()
		m.tickSoon(err)
		return
	}
	if m.doubt == nil { // it is the same connection
		m.see(b.Timeline)
	}
	if m.doubt != nil {
		m.balanceAt = time.Now()
		return
	}
	m.changes = b.Changes
	m.balanceAt, m.rejected, m.rejoined = time.Time{}, 0, false
	m.obey(b.Barrier, b.Paused)
	m.counts.claims.Add(int64(b.Claimed))
	renewed := make(map[partition]bool, len(b.Renewed))
	for _, i := range b.Renewed {
		renewed[forgotten[i].Partition] = true
	}
	m.apply(held, renewed, doubtful)
	m.engine.stored(nil)
	m.surrender(b.Quota)
}

// reject returns how long to wait after the server has answered a balance or a release with an error, for
// example because somebody else holds the lock of the consumer.
func (m *member) reject(err error) time.Duration {
	if m.rejected++; m.rejected == 1 {
		m.logger.Warn("a consumer could not take or give back partitions, and retries", m.attrs("error", err)...)
	}
	return joinRetry.Delay(m.rejected)
}

// surrender stops the partitions beyond the quota, those first that the member has got last: usually it has them from the
// process that is to get them now, which was restarted. Of these, those with the fewest messages come first.
func (m *member) surrender(quota int) {
	numbers := numbersOf(m.held)
	for n := range m.leaving {
		if !numbers[n] {
			delete(m.leaving, n)
		}
		delete(numbers, n)
	}
	if surplus := len(numbers) - quota; surplus > 0 {
		load := make(map[int]int)
		for p, n := range m.engine.inHand() {
			load[p.Number] += n
		}
		claimed := make(map[int]int64)
		for p, row := range m.held {
			claimed[p.Number] = max(claimed[p.Number], row.Epoch)
		}
		order := slices.SortedFunc(maps.Keys(numbers), func(a, b int) int {
			return cmp.Or(cmp.Compare(claimed[b], claimed[a]), cmp.Compare(load[a], load[b]), cmp.Compare(b, a))
		})
		for _, n := range order[:surplus] {
			m.leaving[n] = true
		}
	}
	m.stopFeeding(func(p partition) bool { return m.leaving[p.Number] })
	m.collect()
}

// stopFeeding stops the reading of partitions, and lets their handlers finish.
func (m *member) stopFeeding(which func(partition) bool) {
	var ps []partition
	for p := range m.held {
		if _, ok := m.drained[p]; !ok && which(p) {
			ps = append(ps, p)
		}
	}
	m.close(ps)
	m.engine.surrender(ps)
}

// release frees the partitions that are to be released and of which no handler runs. Before a member leaves, it does so as
// long as a handler keeps others.
func (m *member) release(ctx context.Context) {
	// The server frees those of all categories with a number, also one that the fence has stopped.
	stopped := make(map[int]bool)
	for p := range m.before {
		stopped[p.Number] = true
	}
	for p := range m.engine.checkpoints() {
		stopped[p.Number] = true
	}
	var moves []ledger.Move
	for n := range m.leaving {
		if stopped[n] {
			continue
		}
		var all []ledger.Move
		for p := range m.held {
			if p.Number != n {
				continue
			}
			mv, ok := m.drained[p]
			if !ok {
				all = nil
				break
			}
			all = append(all, mv)
		}
		moves = append(moves, all...)
	}
	if len(moves) == 0 || !m.ticked || time.Now().Before(m.releaseAt) || m.stopping && m.isDrained() {
		return
	}
	var released []int
	err := m.send(ctx, func(ctx context.Context, p protocol) (err error) {
		if m.doubt != nil { // another connection
			return m.doubt
		}
		released, err = p.release(ctx, *m.self.Load(), moves)
		return err
	})
	switch {
	case err != nil && isAnswer(err):
		m.releaseAt = time.Now().Add(m.reject(err))
		return
	case err != nil:
		m.tickSoon(err)
		return
	}
	m.rejected = 0
	if m.stopping {
		m.releaseAt = time.Now().Add(m.interval())
	}
	done := make(map[partition]bool)
	for _, i := range released {
		done[moves[i].Partition] = true
	}
	for _, mv := range moves {
		p := mv.Partition
		if !done[p] && m.stopping {
			continue // it is retried
		}
		if !done[p] { // its checkpoint is locked, perhaps by a statement that may yet park something, or not where it was
			row := m.held[p]
			row.Position = max(row.Position, mv.From)
			m.before[p] = row
			m.balanceBy(time.Now().Add(m.interval()))
		}
		delete(m.drained, p)
		delete(m.held, p)
		delete(m.leaving, p.Number)
	}
	numbers := make(map[int]bool)
	for p := range done {
		numbers[p.Number] = true
	}
	m.counts.releases.Add(int64(len(numbers)))
	m.counts.partitions.Store(int64(len(numbersOf(m.owned()))))
}

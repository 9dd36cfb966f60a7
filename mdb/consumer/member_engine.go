package consumer

import (
	"maps"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// isBusy reports whether calls are running, also of partitions that were forgotten. When the last of those returns, changed is called.
func (e *engine) isBusy() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.counters.running > 0
}

// inHand returns how many messages of each partition are in memory.
func (e *engine) inHand() map[partition]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := make(map[partition]int, len(e.parts))
	for id, p := range e.parts {
		for _, c := range p.chunks {
			n[id] += len(c.items) - c.first
		}
	}
	return n
}

// checkpoints returns where the server has confirmed each partition to be.
func (e *engine) checkpoints() map[partition]int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	stored := make(map[partition]int64, len(e.parts))
	for id, p := range e.parts {
		stored[id] = p.stored
	}
	return stored
}

// parked returns what is parked of each partition, also of those that drained has returned. Only partitions,
// keys, streams and positions of the rows are set.
func (e *engine) parked() map[partition][]ledger.Parked {
	e.mu.Lock()
	defer e.mu.Unlock()
	rows := maps.Clone(e.left)
	for id, p := range e.parts {
		if p.blocked != nil {
			rows[id] = p.parked()
		}
	}
	return rows
}

func (p *part) parked() (rows []ledger.Parked) {
	for key, b := range p.blocked {
		for _, row := range b.rows {
			rows = append(rows, ledger.Parked{Partition: p.id, Key: key, Stream: row.Stream, Position: row.Position})
		}
	}
	return rows
}

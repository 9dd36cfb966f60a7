package ledger

import (
	"slices"
)

// The model is the protocol without a server. Rows are values, and each function of the
// schema is one step that nothing can divide, as its locks make it on a server. Sizes are
// small, because what goes wrong goes wrong with few rows too, and is found sooner.
const (
	partitions = 3
	categories = 2
	rowCount   = categories * partitions

	second = int64(1_000_000) // times are in microseconds, as epochs are
	lease  = 10 * second
	beat   = 2 * second
)

// A database is everything that a failover can lose. A copy made by clone is a standby.
type database struct {
	timeline int
	changes  int64
	layout   int64
	known    int // number of categories, 0 before the consumer is created
	members  []memberRow
	rows     [rowCount]checkpointRow
	parked   []parkedRow
	log      []message          // a message's global position is its index + 1
	effects  [maxMessages]uint8 // by a message's number
	claims   int
	starts   [rowCount]int64 // the consumer has nothing to do with messages up to here
}

const maxMessages = 16

type memberRow struct {
	id, instance       int // no instance: 0
	categories         int // it reads the first ones
	joined, seen, woke int64
	layout             int64
}

type checkpointRow struct {
	position, epoch int64
	member          int // nobody: 0
	timeline        int // of the claim

	// The claim by which the member holds the row. The schema does not have it: no two
	// claims are the same, even if a failover loses one of them.
	claim int
}

type parkedRow struct {
	row      int
	key      int
	position int64 // this message and the later ones of its key are not handled
}

// A message's partition is its key modulo partitions.
type message struct {
	number   int // no two messages have the same, even if a failover loses one of them
	category int
	key      int
}

func rowOf(category, partition int) int { return category*partitions + partition }

func (m message) row() int { return rowOf(m.category, m.key%partitions) }

func (d *database) clone() database {
	c := *d
	c.members, c.parked, c.log = slices.Clone(d.members), slices.Clone(d.parked), slices.Clone(d.log)
	return c
}

func (d *database) head() int64 { return int64(len(d.log)) }

func (d *database) member(id int) *memberRow {
	for i := range d.members {
		if d.members[i].id == id {
			return &d.members[i]
		}
	}
	return nil
}

func (d *database) remove(id int) {
	d.members = slices.DeleteFunc(d.members, func(m memberRow) bool { return m.id == id })
}

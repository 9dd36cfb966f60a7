package consumer

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/names"
	"github.com/messagedb-go/messagedb/mdb"
)

// ImportPosition creates a consumer that continues where one with a position stream is: one that was run with [InPositionStream],
// or by Eventide. It returns the global position after which the new consumer continues. Nothing is left out. What is handled
// since the position was last stored is handled again.
//
// The category is that of the stream without the type position: account for the stream account:position-mailer, and account:command
// for account:command+position-mailer. The consumer has [DefaultPartitions] partitions. Several streams, as those of the members of a
// group of Eventide, cannot become one consumer: import that with the lowest position, and what the others have handled after it is
// handled again.
//
// Stop the process that runs the old consumer, import, and start processes that run the new one. The position is also written to the stream
// again, in the same transaction: so a process with InPositionStream that is still running stores nothing more and ends with
// [ErrReplaced]. One of Eventide's would go on, and both consumers would handle the same messages.
//
// The error is a [*ConflictError] if the stream is empty or is written to meanwhile, or if there is a consumer of the name, and an
// [*mdb.SetupError] if the stream's last message is not a position. ImportPosition accepts [DryRun].
func (o *Operator) ImportPosition(ctx context.Context, consumer string, stream mdb.StreamName, opts ...AdminOption) (position int64, err error) {
	c := options(consumer, opts, dryRun)
	var category string
	if c.text("stream", string(stream), "the name of a position stream", 0) {
		var ok bool
		if category, ok = categoryOfPositions(stream); !ok {
			c.fault("stream", strconv.Quote(string(stream)), "the name of a position stream, such as account:position-mailer")
		}
	}
	err = o.change(ctx, "import the position of "+string(stream), consumer, c, func(tx pgx.Tx) error {
		position, err = importPosition(ctx, tx, consumer, stream, category)
		return err
	})
	return position, err
}

// categoryOfPositions returns the category whose consumer has the position stream.
func categoryOfPositions(stream mdb.StreamName) (category string, ok bool) {
	entity, types, _ := strings.Cut(names.Category(string(stream)), ":")
	list := strings.Split(types, "+")
	i := slices.Index(list, "position")
	if entity == "" || i < 0 {
		return "", false
	}
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		return entity, true
	}
	return entity + ":" + strings.Join(list, "+"), true
}

func importPosition(ctx context.Context, tx pgx.Tx, consumer string, stream mdb.StreamName, category string) (position int64, err error) {
	last, timeline, err := lastPosition(ctx, tx, string(stream), true)
	switch {
	case err != nil:
		return 0, err
	case last.version < 0:
		return 0, &ConflictError{consumer, fmt.Sprintf("the stream %s is empty", stream)}
	case last.err != nil:
		return 0, (&notPositionError{string(stream), last.version, last.err}).setup("name the stream of a consumer")
	}
	created, err := ledger.Create(ctx, tx, consumer, DefaultPartitions) // before the wait for the stream, in which somebody else could create it
	switch {
	case err != nil:
		return 0, err
	case !created:
		return 0, &ConflictError{consumer, "there is a consumer of the name"}
	}
	outcome, err := storePosition(ctx, tx, positionToStore{
		stream: string(stream), id: uuid.New(), position: last.position, expected: last.version, timeline: timeline, blind: true,
	})
	switch {
	case err != nil:
		return 0, err
	case outcome != positionStored:
		return 0, &ConflictError{consumer, fmt.Sprintf("the stream %s is written to by another process", stream)}
	}
	member := uuid.New()
	joined, err := ledger.Join(ctx, tx, ledger.JoinParams{
		Name: consumer, Member: member, Info: info(DefaultMaxParked), Lease: time.Minute, Categories: []string{category}, Start: &last.position,
	})
	if err == nil {
		err = ledger.Leave(ctx, tx, ledger.Member{Consumer: joined.Consumer, ID: member}, nil)
	}
	return last.position, err
}

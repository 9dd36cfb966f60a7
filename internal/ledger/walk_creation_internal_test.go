package ledger

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// creationWalk is two members that create a consumer which begins at the end, and a writer.
type creationWalk struct{ membersWalk }

// creationFirst is the first random order, shortly before one that shows the mutant.
const creationFirst = 55

// TestWalkCreation checks that in the orders of [stage.orders] of two members that create a consumer, which begins at
// the end of its category, and of a writer, all partitions begin at the same position, and no
// message that is written after a member has joined is before it. There are too many orders to walk all.
func TestWalkCreation(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	w := &creationWalk{membersWalk: membersWalk{stage: newStage(t, walkDatabase(t, ""), 3, pgx.ReadCommitted)}}
	w.first = creationFirst
	n := w.orders(1, w.run)
	if w.fault != "" {
		t.Errorf("order %d: %s", n, w.fault)
	}
	t.Logf("%d orders", n)
}

// TestWalkCreationMutants checks that TestWalkCreation can fail.
func TestWalkCreationMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	w := &creationWalk{membersWalk: membersWalk{stage: newStage(t, walkDatabase(t, "last position", change{
		"coalesce($8, message_store_consumers.end_of(w.category)) AS position", "coalesce($8, (SELECT s.last_value FROM message_store.messages_global_position_seq AS s)) AS position", 1,
	}), 3, pgx.ReadCommitted)}}
	w.first = creationFirst
	if n := w.orders(1, w.run); w.fault == "" {
		t.Errorf("none of %d orders fails, want a start at the last position that any transaction has got to be caught", n)
	}
	t.Log(w.fault)
}

func (w *creationWalk) run(choose func(of int) int) bool {
	w.begin()
	category := "creation" + fmt.Sprint(w.count("SELECT nextval('message_store_consumers.consumers_id_seq')"))
	begun, joins := 0, 0
	before, after := false, false // the commit: before a join began, after one ended
	join := func() program {
		m := Member{ID: uuid.New()}
		return program{func(ctx context.Context, conn *pgx.Conn) error {
			begun++
			_, err := Join(ctx, conn, joinParams(m, w.name, membersPartitions, nil, category))
			joins++
			return err
		}}
	}
	insert := sql("SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')", category+"-1")
	w.exec("SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')", category+"-1")
	writer := program{sql("BEGIN"), insert, func(ctx context.Context, conn *pgx.Conn) error {
		after = joins > 0
		err := sql("COMMIT")(ctx, conn)
		before = begun == 0
		return err
	}}
	w.walk([]program{join(), join(), writer}, choose)
	for _, a := range w.actors {
		if a.err != nil {
			w.fault = a.err.Error()
			return false
		}
	}
	last := w.count("SELECT max(global_position) FROM message_store.messages WHERE message_store.category(stream_name) = $1", category)
	least := w.count("SELECT min(c.position) FROM message_store_consumers.checkpoints AS c JOIN message_store_consumers.consumers AS o ON o.id = c.consumer WHERE o.name = $1", w.name)
	most := w.count("SELECT max(c.position) FROM message_store_consumers.checkpoints AS c JOIN message_store_consumers.consumers AS o ON o.id = c.consumer WHERE o.name = $1", w.name)
	rows := w.count("SELECT count(*) FROM message_store_consumers.checkpoints AS c JOIN message_store_consumers.consumers AS o ON o.id = c.consumer WHERE o.name = $1", w.name)
	switch {
	case rows != membersPartitions:
		w.fault = fmt.Sprintf("%d checkpoints", rows)
	case least != most:
		w.fault = fmt.Sprintf("partitions begin at %d and at %d", least, most)
	case after && most >= last:
		w.fault = fmt.Sprintf("the consumer begins at %d, and message %d was committed after a member had joined", most, last)
	case before && most != last:
		w.fault = fmt.Sprintf("the consumer begins at %d, and message %d was there before", most, last)
	}
	return w.fault == ""
}

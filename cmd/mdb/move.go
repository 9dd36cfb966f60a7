package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
)

var moveCommand = command{
	name:  "move",
	args:  []string{"-from CONNECTION -to CONNECTION -proxy CONNECTION CATEGORY"},
	short: "move a category from one shard to another",
	long: `Moves a category between two shards while it is written to, and changes its shard on the proxies. Messages keep
their IDs, positions, global positions and times, so subscriptions and consumers that use a proxy go on from
their positions. Writers are held up while the last messages are copied; the command prints for how long.

If the command fails or is interrupted, the same command continues from what it finds on the shards. -abort
undoes it as long as no proxy was changed. -dry-run prints how far a move is, and changes nothing.

The messages of the category also stay on the old shard, which does not accept new ones. -delete-old deletes them,
when subscriptions to all categories of that shard have received them.

It needs the owners of the tables, on shards that "install -shard" has numbered, without a pooler between.`,
	examples: `mdb move -dry-run -from "$SHARD0" -to "$SHARD1" -proxy "$PROXY" account
mdb move -from "$SHARD0" -to "$SHARD1" -proxy "$PROXY" account
mdb move -delete-old -from "$SHARD0" -to "$SHARD1" -proxy "$PROXY" account`,
	setup: func(fs *flag.FlagSet) action {
		var m moving
		fs.StringVar(&m.from, "from", "", "the old shard: a `CONNECTION`, as for -d")
		fs.StringVar(&m.to, "to", "", "the new shard: a `CONNECTION`, as for -d")
		fs.Func("proxy", "a proxy: a `CONNECTION`, as for -d; give the option once for each", func(given string) error {
			m.proxies = append(m.proxies, given)
			return nil
		})
		fs.BoolVar(&m.dryRun, "dry-run", false, "print how far the move is, and what would be done")
		fs.BoolVar(&m.abort, "abort", false, "undo a move that has changed no proxy yet")
		fs.BoolVar(&m.deleteOld, "delete-old", false, "delete the messages on the old shard after a move")
		return m.run
	},
}

// moving is the options of move.
type moving struct {
	from, to                 string
	proxies                  []string
	dryRun, abort, deleteOld bool
}

func (m *moving) run(ctx context.Context, a *app, args []string) error {
	args, err := exactly(args, "CATEGORY")
	if err != nil {
		return err
	}
	mover := &archive.Mover{}
	if mover.Category, err = category(args[0]); err != nil {
		return usage("%s", err.Error())
	}
	switch {
	case a.database != "" || a.pooler:
		return usage("-d and -pooler do not apply: -from, -to and -proxy give the databases")
	case m.from == "" || m.to == "" || len(m.proxies) == 0:
		return usage("want -from, -to and -proxy")
	case m.dryRun && (m.abort || m.deleteOld) || m.abort && m.deleteOld:
		return usage("-dry-run, -abort and -delete-old exclude one another")
	}
	var stores []*mdb.Store
	defer func() {
		for _, s := range stores {
			s.Close()
		}
	}()
	for i, given := range append([]string{m.from, m.to}, m.proxies...) {
		s, err := open(ctx, given)
		if err != nil {
			return explainConnect(err)
		}
		stores = append(stores, s)
		switch i {
		case 0:
			mover.From = s.Pool()
		case 1:
			mover.To = s.Pool()
		default:
			mover.Proxies = append(mover.Proxies, s.Pool())
		}
	}
	return m.do(ctx, a, mover)
}

func open(ctx context.Context, given string) (*mdb.Store, error) {
	conn, err := connString(given)
	if err != nil {
		return nil, err
	}
	return mdb.Connect(ctx, conn)
}

func (m *moving) do(ctx context.Context, a *app, mover *archive.Mover) error {
	name := printable(string(mover.Category))
	bar := a.progress()
	switch {
	case m.dryRun:
		state, err := mover.State(ctx)
		if err != nil {
			return err
		}
		return a.say("%s from shard %d to shard %d: %s\n", name, state.From, state.To, stepText(state))
	case m.abort:
		mover.Progress = func(n int64) { bar.show(-1, counted(n, "message")+" deleted") }
		n, err := mover.Abort(ctx)
		bar.end()
		if err != nil {
			return err
		}
		return a.say("the move of %s is undone, and %s deleted on the new shard\n", name, counted(n, "message"))
	case m.deleteOld:
		mover.Progress = func(n int64) { bar.show(-1, counted(n, "message")+" deleted") }
		n, err := mover.DeleteOld(ctx)
		bar.end()
		switch {
		case err != nil:
			return err
		case n == 0:
			return nothing("the old shard has no messages of %s", name)
		}
		return a.say("deleted %s of %s on the old shard\n", counted(n, "message"), name)
	}
	state, err := mover.State(ctx)
	if err != nil {
		return err
	}
	if state.Step == archive.MoveDone {
		return nothing("%s was moved already", name)
	}
	mover.Progress = func(n int64) { bar.show(share(n, state.Left), counted(n, "message")+" copied") }
	done, err := mover.Move(ctx)
	bar.end()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w\nthe same command continues, and -abort undoes the move unless it has changed a proxy", err)
	}
	if err != nil {
		return errors.Join(err, errInterruptedMove)
	}
	text := fmt.Sprintf("moved %s from shard %d to shard %d, %s copied", name, state.From, state.To, counted(done.Copied, "message"))
	if done.HeldUp > 0 {
		text += fmt.Sprintf("; writers were held up for %s", done.HeldUp.Round(time.Millisecond))
	}
	return a.say("%s\n", text)
}

var errInterruptedMove = errors.New("the same command continues the move")

func stepText(s archive.MoveState) string {
	switch s.Step {
	case archive.MoveNotBegun:
		return "not begun, would copy " + counted(s.Left, "message")
	case archive.MoveCopying:
		return "copying, would copy " + counted(s.Left, "message") + " more"
	case archive.MoveClosed:
		return "all messages are copied, and neither shard accepts new ones; would change the proxies"
	case archive.MoveFlipped:
		return "the proxies are changed; would let the new shard accept messages"
	}
	return "done"
}

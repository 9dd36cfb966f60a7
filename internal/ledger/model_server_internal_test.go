package ledger

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// TestModelIsServer checks that a server returns the same and has the same rows as the model,
// in some of the schedules.
func TestModelIsServer(t *testing.T) {
	t.Parallel()
	m := newMirror(t, consumersDatabase(t, "model", func() string { return consumersSQL(t) }))
	n := uint64(60)
	switch {
	case many():
		n = 1_000
	case testing.Short():
		n = 10
	}
	for seed := range n {
		if w := m.schedule(seed); m.differs != "" || w.fault != "" {
			schedule(seed, none, t.Logf)
			t.Fatalf("schedule %d: %s%s", seed, m.differs, w.fault)
		}
	}
	t.Logf("%d schedules: %v", n, m.acts)
	for _, act := range []string{"join", "balance", "balance, gone", "tick", "move", "release", "leave", "park", "failover", "resize", "balance, resized", "renewal"} {
		if m.acts[act] == 0 && !testing.Short() {
			t.Errorf("no schedule has a %s", act)
		}
	}
}

// schedule runs a schedule in the model and on the server, until they differ.
func (m *mirror) schedule(seed uint64) *world {
	m.begin()
	w := newWorld(seed, none)
	w.mirror = m
	return w.run()
}

// TestModelIsServerMutants checks that TestModelIsServer can fail: each mutant breaks a rule of
// consumers.sql, and the model does not.
func TestModelIsServerMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const clock = "pg_catalog.clock_timestamp()"
	for _, test := range []struct {
		name    string
		twin    mutant // breaks the same rule of the model, and shows which schedules do
		changes []change
	}{
		{"the fence does not compare the member", noMember, []change{
			{"c.partition = $3 AND c.member = $4 AND c.epoch = $5 AND c.position", "c.partition = $3 AND c.epoch = $5 AND c.position", 1},
			{"AND c.member = $2 AND c.epoch = l.epoch", "AND c.epoch = l.epoch", 1},
			{"c.member = $2 AND c.epoch = w.epoch", "c.epoch = w.epoch", 2},
		}},
		{"the fence does not compare the epoch", noEpoch, []change{
			{"AND c.epoch = $5 AND c.position", "AND c.position", 1},
			{"AND c.epoch = l.epoch", "", 1},
			{"AND c.epoch = w.epoch", "", 2},
		}},
		{"the fence does not compare the position", noPosition, []change{
			{"AND c.position = $6 ", "", 1},
			{"AND c.position = l.\"from\"\n", "\n", 1},
		}},
		{"the fence does not compare the timeline", timelineInAnswer, []change{
			{"c.timeline IS NOT DISTINCT FROM", "'' IS DISTINCT FROM", 4},
			{"CASE WHEN c.timeline IS DISTINCT FROM message_store_consumers.timeline() THEN", "CASE WHEN false THEN", 1},
		}},
		{"a member judges others for a silence that it has shared", noWoke, []change{
			{"      AND (me.woke IS NULL OR me.woke < pg_catalog.clock_timestamp() - m.lease)\n", "", 1},
		}},
		{"a member that has not ticked judges others", none, []change{
			{"me.seen > pg_catalog.clock_timestamp() - me.lease / 2\n      AND", "", 1},
		}},
		{"a member that has not ticked since the clock was set back judges others", none, []change{
			{"  SET seen = " + clock + ", woke = " + clock + "\n", "  SET seen = " + clock + "\n", 1},
		}},
		{"a member that was evicted claims", none, []change{
			{"IF NOT EXISTS (SELECT FROM message_store_consumers.members AS m WHERE m.id = $2 AND m.consumer = $1) THEN", "IF false THEN", 1},
			{"IF quota > held AND free", "quota := coalesce(quota, parts); held := coalesce(held, 0); members := coalesce(members, 1);\n  IF quota > held AND free", 1},
		}},
		{"a time in the future is not cut", none, []change{{"  SET seen = " + clock + ", woke", "  SET woke", 1}}},
		{"a tick hides that the clock was set back", none, []change{{"    WHEN m.seen > " + clock + " + interval '1 second' THEN m.seen", "    WHEN false THEN m.seen", 1}}},
		{"a member that was seen in the future is no suspect", none, []change{
			{" OR o.seen > " + clock + " + interval '1 second'", "", 1},
		}},
		{"a new category has no owner, and its partitions are free", robNewCategory, []change{
			{"n.position, o.member,", "n.position, NULL,", 1},
			{"HAVING pg_catalog.count(m.id) = 0", "HAVING pg_catalog.count(m.id) < pg_catalog.count(*)", 1},
		}},
		{"a member that leaves keeps its partitions", none, []change{{"SET position = coalesce(s.\"to\", c.position), member = NULL,", "SET position = coalesce(s.\"to\", c.position),", 2}}},
		{"the epoch is the time", none, []change{{"pg_catalog.max(o.epoch) + 1", "pg_catalog.max(o.epoch)", 1}}},
		{"partitions are claimed before all members have confirmed the layout", claimUnready, []change{{"free IS NOT NULL AND ready THEN", "free IS NOT NULL THEN", 1}}},
		{"the last member that confirms a layout does not say so", confirmSilently, []change{{"evicted OR confirmed AND ready OR claimed", "evicted OR claimed", 1}}},
		{"a member can have another layout", none, []change{{"IF $3 <> parts OR $4 <> current THEN", "IF $3 <> parts THEN", 1}}},
		{"rows that a member has forgotten keep their epochs", sameEpoch, []change{{"IF pg_catalog.cardinality($6) > 0 THEN\n    fresh", "IF false THEN\n    fresh", 1}}},
		{"parks are not fenced", parkUnfenced, []change{{"AND c.member = $4 AND c.epoch = $5\n", "\n", 1}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := newMirror(t, consumersDatabase(t, test.name, func() string { return consumersSQL(t, test.changes...) }))
			for seed := range uint64(20_000) {
				if test.twin != none && schedule(seed, test.twin, nil).fault == "" {
					continue
				}
				if m.schedule(seed); m.differs != "" {
					t.Logf("schedule %d: %.200s", seed, m.differs)
					return
				}
			}
			t.Error("no schedule differs, want the mutant to be caught")
		})
	}
}

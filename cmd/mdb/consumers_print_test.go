package main

import (
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestAge checks that an age has the largest unit of which there are at least two.
func TestAge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 999 * time.Millisecond: "0s", 2*time.Minute - 1: "119s", 2 * time.Minute: "2m", 2*time.Hour - 1: "119m",
		2 * time.Hour: "2h", 48*time.Hour - 1: "47h", 48 * time.Hour: "2d", 1000 * 24 * time.Hour: "1000d",
	} {
		if got := age(now, now.Add(-d)); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
	if got := age(now, time.Time{}); got != "-" {
		t.Errorf("without a time: got %s", got)
	}
}

// TestRanges checks how the numbers of partitions are abbreviated.
func TestRanges(t *testing.T) {
	t.Parallel()
	for want, numbers := range map[string][]int{
		"-": nil, "0": {0}, "0-1": {0, 1}, "0,2": {0, 2}, "0-2,4,6-9": {0, 1, 2, 4, 6, 7, 8, 9},
	} {
		if got := ranges(numbers); got != want {
			t.Errorf("%v: got %s, want %s", numbers, got, want)
		}
	}
}

// TestStateOf checks which obstacle the list names.
func TestStateOf(t *testing.T) {
	t.Parallel()
	barrier := int64(1)
	stuck := func(kinds ...consumer.ObstacleKind) consumer.Status {
		s := consumer.Status{Members: 1, Parked: 100}
		for _, kind := range kinds {
			o := consumer.Obstacle{Kind: kind}
			if kind == consumer.ObstacleStill || kind == consumer.ObstacleUnowned {
				o.Partitions = []int{1, 3}
			}
			s.Stuck = append(s.Stuck, o)
		}
		return s
	}
	for want, s := range map[string]consumer.Status{
		"running":                       stuck(),
		"running, can park no more":     stuck(consumer.ObstacleFull),
		"resized, waiting for calls":    stuck(consumer.ObstacleUnowned, consumer.ObstacleUnconfirmed),
		"2 standing still":              stuck(consumer.ObstacleUnowned, consumer.ObstacleStill),
		"4 standing still: 100 parked":  stuck(consumer.ObstacleFull, consumer.ObstacleStill, consumer.ObstacleStill),
		"2 without a process":           stuck(consumer.ObstacleUnread, consumer.ObstacleUnowned),
		"a category without a process":  stuck(consumer.ObstacleUnread),
		"no process":                    {},
		"paused":                        {Paused: true},
		`paused: because\u000aof lunch`: {Paused: true, Reason: "because\nof lunch", Members: 1},
		"resizing":                      {Members: 1, Barrier: &barrier},
	} {
		if got := stateOf(&s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

package mdbweb

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	buckets = 60
	// maxBucketed is how many messages are counted one by one. Of more, the number is estimated from the positions and
	// times of some.
	maxBucketed = 20_000
	probes      = 600
)

const (
	// sqlFirstSince finds the first message of a time or later by a binary search. Times increase with positions, except for
	// transactions that overlap.
	sqlFirstSince = `WITH RECURSIVE search(low, high, steps) AS (
	SELECT pg_catalog.min(global_position), pg_catalog.max(global_position) + 1, 0 FROM message_store.messages
	UNION ALL
	SELECT CASE WHEN m.time < $1::text::timestamp THEN m.global_position + 1 ELSE s.low END, CASE WHEN m.time < $1::text::timestamp THEN s.high ELSE s.middle END, s.steps + 1
	FROM (SELECT low, high, low + (high - low) / 2 AS middle, steps FROM search WHERE low < high AND steps < 64) AS s
	LEFT JOIN LATERAL (
		SELECT m.global_position, m.time FROM message_store.messages AS m
		WHERE m.global_position >= s.middle AND m.global_position < s.high ORDER BY m.global_position LIMIT 1
	) AS m ON true
)
SELECT s.low, (SELECT pg_catalog.max(global_position) FROM message_store.messages) FROM search AS s ORDER BY s.steps DESC LIMIT 1`

	sqlBuckets = `SELECT pg_catalog.floor(extract(epoch FROM m.time - $2::text::timestamp) / $3::float8)::integer AS bucket, pg_catalog.count(*)
FROM message_store.messages AS m WHERE m.global_position >= $1::bigint GROUP BY 1`

	sqlProbes = `SELECT p.global_position, p.time FROM pg_catalog.generate_series(0, $3::integer) AS n CROSS JOIN LATERAL (
	SELECT m.global_position, m.time FROM message_store.messages AS m
	WHERE m.global_position >= $1::bigint + (($2::bigint - $1::bigint) / $3::float8 * n)::bigint ORDER BY m.global_position LIMIT 1
) AS p ORDER BY n`
)

// A window is how much time a chart shows.
type window struct {
	Name, Text string
	length     time.Duration
}

var windows = []window{
	{"1h", "hour", time.Hour}, {"24h", "24 hours", 24 * time.Hour}, {"7d", "7 days", 7 * 24 * time.Hour}, {"30d", "30 days", 30 * 24 * time.Hour},
}

// A chart is how many messages were written in each part of a window.
type chart struct {
	Window    window
	From, To  time.Time
	Bucket    time.Duration
	Bars      []bar
	Most      int64
	Total     count
	Estimated bool
}

// Span is the length of a bucket.
func (c *chart) Span() string {
	if c.Bucket > time.Hour && c.Bucket%time.Hour != 0 {
		return fmt.Sprintf("%.1f h", c.Bucket.Hours())
	}
	return age(c.Bucket)
}

// A bar is the messages of a part of a window. X and Height are in units of the chart.
type bar struct {
	From      time.Time
	N         int64
	X, Height float64
}

// The size of a chart in its own units.
const (
	barWidth    = 10.0
	chartHeight = 120.0
)

func throughputOf(ctx context.Context, tx pgx.Tx, w window) (*chart, error) {
	to := time.Now().UTC()
	c := &chart{Window: w, From: to.Add(-w.length), To: to, Bucket: w.length / buckets}
	counts, err := c.count(ctx, tx)
	if err != nil {
		return nil, err
	}
	for i, n := range counts {
		c.Bars = append(c.Bars, bar{From: c.From.Add(time.Duration(i) * c.Bucket), N: n, X: barWidth * float64(i)})
		c.Most = max(c.Most, n)
		c.Total.N += n
	}
	c.Total.Estimated = c.Estimated
	for i := range c.Bars {
		c.Bars[i].Height = chartHeight * float64(c.Bars[i].N) / float64(max(c.Most, 1))
		if c.Bars[i].N > 0 {
			c.Bars[i].Height = max(c.Bars[i].Height, 1.5)
		}
	}
	return c, nil
}

// timestamp is a time as a parameter. A time.Time would be sent as one with a time zone in some modes.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000") }

func (c *chart) count(ctx context.Context, tx pgx.Tx) (counts [buckets]int64, err error) {
	var first, last *int64
	if err := tx.QueryRow(ctx, sqlFirstSince, timestamp(c.From)).Scan(&first, &last); err != nil || first == nil || last == nil || *first > *last {
		return counts, err
	}
	if *last-*first >= maxBucketed {
		c.Estimated = true
		rows, _ := tx.Query(ctx, sqlProbes, *first, *last, probes)
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p probe, err error) { return p, row.Scan(&p.position, &p.time) })
		return c.spread(found), err
	}
	rows, _ := tx.Query(ctx, sqlBuckets, *first, timestamp(c.From), c.Bucket.Seconds())
	var (
		number int
		n      int64
	)
	_, err = pgx.ForEachRow(rows, []any{&number, &n}, func() error {
		counts[min(max(number, 0), buckets-1)] += n
		return nil
	})
	return counts, err
}

// A probe is the position and the time of a message.
type probe struct {
	position int64
	time     time.Time
}

// spread distributes the messages between probes over the time between them.
func (c *chart) spread(probes []probe) (counts [buckets]int64) {
	var sums [buckets]float64
	for i := 1; i < len(probes); i++ {
		before, after := probes[i-1], probes[i]
		n := float64(after.position - before.position)
		from, to := before.time.Sub(c.From).Seconds()/c.Bucket.Seconds(), after.time.Sub(c.From).Seconds()/c.Bucket.Seconds()
		from, to = min(max(from, 0), buckets), min(max(to, 0), buckets)
		if to <= from {
			sums[min(int(from), buckets-1)] += n
			continue
		}
		for b := int(from); b < buckets && float64(b) < to; b++ {
			sums[b] += n * (min(to, float64(b+1)) - max(from, float64(b))) / (to - from)
		}
	}
	var before, total float64
	for b, sum := range sums { // rounded so that no message is lost
		total += sum
		counts[b] = int64(math.Round(total) - math.Round(before))
		before = total
	}
	return counts
}

// throughputPage is a chart, and what else can be shown.
type throughputPage struct {
	Chart   *chart
	Windows []window
}

func (h *Handler) throughput(w http.ResponseWriter, r *http.Request) error {
	p := throughputPage{Windows: windows}
	chosen := windows[1]
	for _, offered := range windows {
		if offered.Name == r.FormValue("window") {
			chosen = offered
		}
	}
	err := h.reader.read(r.Context(), func(ctx context.Context, tx pgx.Tx) (err error) {
		p.Chart, err = throughputOf(ctx, tx, chosen)
		return err
	})
	if err != nil {
		return err
	}
	return h.render(w, r, "throughput", "Throughput", http.StatusOK, p)
}

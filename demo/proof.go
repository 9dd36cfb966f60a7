package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A Check is a line of the proof.
type Check struct {
	What string
	OK   bool
	Text string
}

// Messages of the run, with what each does to its account, and the balance after it.
const moves = `
WITH move AS (
  SELECT *, sum(change) OVER (PARTITION BY stream_name ORDER BY position) AS balance
    FROM (SELECT *, (data->>'amount')::bigint * CASE type WHEN 'Deposited' THEN 1 ELSE -1 END AS change
            FROM message_store.messages
           WHERE message_store.category(stream_name) = $1) AS m
)`

// prove queries the database, and compares with what the demo knows.
func (d *database) prove(ctx context.Context, b *bank, t *totals) (checks []Check, err error) {
	err = d.connect(ctx, func(conn *pgx.Conn) error {
		for _, prove := range []func() (Check, error){
			func() (Check, error) { return d.proveMoney(ctx, conn, b) },
			func() (Check, error) { return d.proveWrites(ctx, conn, b.acknowledged()) },
			func() (Check, error) { return d.proveProjection(ctx, conn) },
			func() (Check, error) { return d.proveBalances(ctx, conn) },
			func() (Check, error) { return d.proveTotals(ctx, conn, t) },
		} {
			check, err := prove()
			if err != nil {
				return err
			}
			checks = append(checks, check)
		}
		return nil
	})
	return checks, err
}

func (d *database) proveMoney(ctx context.Context, conn *pgx.Conn, b *bank) (Check, error) {
	var sum, least int64
	err := conn.QueryRow(ctx, moves+"SELECT coalesce(sum(change), 0), coalesce(min(balance), 0) FROM move",
		string(d.accounts())).Scan(&sum, &least)
	below := "none below 0"
	if least < 0 {
		below = "one was at " + count(least)
	}
	return Check{
		What: "money", OK: sum == accounts*opening && least >= 0,
		Text: fmt.Sprintf("%s in %d accounts, as before %s transfers; %s",
			count(sum), accounts, count(b.transferred.figures(keep).Total), below),
	}, err
}

func (d *database) proveWrites(ctx context.Context, conn *pgx.Conn, acknowledged []uuid.UUID) (Check, error) {
	var stored, missing int
	err := conn.QueryRow(ctx, moves+`
SELECT (SELECT count(*) FROM move),
       (SELECT count(*) FROM unnest($2::uuid[]) AS a (id) WHERE NOT EXISTS (SELECT FROM move WHERE move.id = a.id))`,
		string(d.accounts()), acknowledged).Scan(&stored, &missing)
	n := len(acknowledged)
	return Check{
		What: "writes", OK: missing == 0 && stored == n,
		Text: fmt.Sprintf("%s messages acknowledged, %s stored; %s lost, %s too many", count(n), count(stored),
			count(missing), count(stored-(n-missing))),
	}, err
}

func (d *database) proveProjection(ctx context.Context, conn *pgx.Conn) (Check, error) {
	var handled, twice, left, back int
	schema := d.schema()
	err := conn.QueryRow(ctx, moves+`
SELECT (SELECT count(*) FROM `+schema+`.handled),
       (SELECT count(*) - count(DISTINCT global_position) FROM `+schema+`.handled),
       (SELECT count(*) FROM move WHERE global_position NOT IN (SELECT global_position FROM `+schema+`.handled)),
       (SELECT count(*) FROM (SELECT global_position < lag(global_position) OVER (PARTITION BY account ORDER BY n) AS back
          FROM `+schema+`.handled) AS h WHERE back)`,
		string(d.accounts())).Scan(&handled, &twice, &left, &back)
	return Check{
		What: "projection", OK: twice == 0 && left == 0 && back == 0,
		Text: fmt.Sprintf("%s messages handled: %s left out, %s twice, %s out of order", count(handled), count(left), count(twice), count(back)),
	}, err
}

func (d *database) proveBalances(ctx context.Context, conn *pgx.Conn) (Check, error) {
	var differ int
	err := conn.QueryRow(ctx, moves+`
SELECT count(*) FROM (SELECT stream_name, sum(change) AS amount FROM move GROUP BY 1) AS m
  FULL JOIN `+d.schema()+`.balance b ON b.account = m.stream_name WHERE b.amount IS DISTINCT FROM m.amount`,
		string(d.accounts())).Scan(&differ)
	text := "those of the projection are those of the messages"
	if differ > 0 {
		text = count(differ) + " are wrong"
	}
	return Check{What: "balances", OK: differ == 0, Text: text}, err
}

func (d *database) proveTotals(ctx context.Context, conn *pgx.Conn, t *totals) (Check, error) {
	var stored int64
	err := conn.QueryRow(ctx, moves+"SELECT count(*) FROM move", string(d.accounts())).Scan(&stored)
	received := t.handled()
	return Check{
		What: "in memory", OK: received == stored,
		Text: fmt.Sprintf("%s of %s messages received, in order, by one subscription", count(received), count(stored)),
	}, err
}

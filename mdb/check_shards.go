package mdb

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	shardPath  = newStatement("shard_path", `SELECT * FROM message_store_shard.search_path($1::integer)`)
	shardCheck = newStatement("shard_check", `SELECT problem, remedy FROM message_store_shard.check($1::integer, $2::boolean)`)
)

// checkShards returns what is wrong with the shards of a proxy. The error says why it could not find out how many
// there are.
func checkShards(ctx context.Context, conn *pgx.Conn, mode pgx.QueryExecMode, readOnly bool) (problems []error, err error) {
	var shards int32
	if err := conn.QueryRow(ctx, shardCount.sql, lookMode(mode)...).Scan(&shards); err != nil {
		return nil, err
	}
	for number := range shards {
		found, err := checkShard(ctx, conn, mode, number, readOnly)
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
		case !errors.As(err, &pgErr) || isFatal(pgErr):
			return nil, err // it is the proxy that is lost
		default:
			found = append(found, shardUnchecked(pgErr, number, err))
		}
		problems = append(problems, found...)
	}
	return problems, nil
}

func checkShard(ctx context.Context, conn *pgx.Conn, mode pgx.QueryExecMode, number int32, readOnly bool) (problems []error, err error) {
	add := func(problem, remedy string) {
		problems = append(problems, &SetupError{Problem: fmt.Sprintf("shard %d: %s", number, problem), Remedy: remedy})
	}
	var path pathState
	rows, err := conn.Query(ctx, shardPath.sql, append(lookMode(mode), number)...)
	if err := readAll(rows, err, path.read()); err != nil {
		return nil, err
	}
	var setup *SetupError
	if errors.As(path.problem(), &setup) {
		add(setup.Problem, setup.Remedy)
	}
	if path.proxied {
		add("it is a proxy itself", "give mdb proxy-sql the connection strings of the stores")
		return problems, nil
	}
	rows, err = conn.Query(ctx, shardCheck.sql, append(lookMode(mode), number, readOnly)...)
	if err != nil {
		return problems, err
	}
	var problem, remedy string
	_, err = pgx.ForEachRow(rows, []any{&problem, &remedy}, func() error {
		add(problem, remedy)
		return nil
	})
	return problems, err
}

// shardUnchecked returns the problem of a shard that has not answered, or with an error.
func shardUnchecked(pgErr *pgconn.PgError, number int32, err error) error {
	k := strconv.Itoa(int(number))
	problem, remedy := "it cannot be checked ("+serverText(pgErr)+")", "connect to it and run mdb check"
	switch {
	case isShardUnreachable(pgErr):
		problem = "the proxy cannot connect to it"
		remedy = "see the log of the proxy's server, and correct the option p" + k + " of the server message_store_shards, or its user mapping"
	case classify(err) == classSetup:
		problem = "it lacks the functions of a shard, or the proxy's role may not call them (" + serverText(pgErr) + ")"
		remedy = "connect to it and run mdb install -shard " + k
	}
	return &SetupError{Problem: "shard " + k + ": " + problem, Remedy: remedy, err: scrub(err)}
}

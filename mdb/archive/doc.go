// Package archive exports the messages of a store as lines of JSON, imports them into another one, deletes old ones, and moves
// categories between shards. The commands mdb export, mdb import, mdb delete and mdb move use it.
//
// # Format
//
// Each line is a JSON object with a message. Its fields have the names of Message DB's columns: id, stream_name, type,
// position, global_position, data, metadata and time. Data and metadata that are SQL NULL are left out. Others are as PostgreSQL
// prints jsonb: the order of keys, white space and the notation of numbers may differ from what was written, but not from
// what a read returns, and an import and another export return the same bytes. The lines are in the order of global
// positions. mdb read -json prints, and mdb write -lines reads, the same fields.
//
// # Positions
//
// An imported message keeps its ID, its stream and its position in the stream. Its global position is a new one, because the
// other store has used its own, and the order of all messages stays. So a position or checkpoint that a subscription or consumer has
// stored is worthless with the other store: start there from the beginning, or from its time.
package archive

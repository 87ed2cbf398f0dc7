"""Methods for other than the plain setting: streams, wrong labels, wrong pairs, missing data."""

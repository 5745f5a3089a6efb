"""What a call computed: the graph of its operations, and their arithmetic followed back and evaluated again."""

"""What any host can show of any model: its sites, its rows, its noise levels."""

"""Components, charts, number formatting, navigation and paper: what every page is made of."""
